"""Counts: densities against scipy and against sums, draws, library sizes, extremes, refusals."""

import itertools
import math

import mpmath
import numpy as np
import pyro
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn
from torch.distributions import constraints
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.distributions.counts import OverdispersedPoisson, TotalsMultinomial
from pyrovae.nets import MLP, LogCounts

FALSE_ALARM = 1e-4
LOG_MEANS = torch.tensor([-0.5, 0.3, 1.6], dtype=torch.float64)
LOG_R = torch.tensor([-1.0, 0.4, 4.0], dtype=torch.float64)
GATE = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)
X = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 40.0], [0.0, 12.0, 7.0]], dtype=torch.float64)
L = torch.tensor([12.0, 40.0, 3.0], dtype=torch.float64)


class Says(nn.Module):
    """A network that says the same of every latent."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, z, *context):
        return self.output.expand(*z.shape[:-1], -1)


def poisson(**options):
    return likelihoods.Poisson(Says(LOG_MEANS), **options)


def negative_binomial(**options):
    return dispersed(likelihoods.NegativeBinomial(Says(LOG_MEANS), 3, **options))


def zero_inflated(**options):
    net = Says(torch.cat([LOG_MEANS, GATE]))
    return dispersed(likelihoods.ZeroInflatedNegativeBinomial(net, 3, **options))


def dispersed(likelihood):
    likelihood.double().log_concentration.data.copy_(LOG_R)
    return likelihood


def scipy_poisson(x, mean):
    return scipy.stats.poisson.logpmf(x, mean)


def scipy_negative_binomial(x, mean):
    r = LOG_R.exp().numpy()
    return scipy.stats.nbinom.logpmf(x, r, r / (r + mean))


def scipy_zero_inflated(x, mean):
    gate = scipy.special.expit(GATE.numpy())
    extra = np.where(x == 0, np.log(gate), -np.inf)
    return np.logaddexp(extra, np.log1p(-gate) + scipy_negative_binomial(x, mean))


FAMILIES = {
    "Poisson": (poisson, scipy_poisson),
    "NegativeBinomial": (negative_binomial, scipy_negative_binomial),
    "ZeroInflatedNegativeBinomial": (zero_inflated, scipy_zero_inflated),
}
every_family = pytest.mark.parametrize(("make", "truth"), FAMILIES.values(), ids=FAMILIES.keys())


def entries(likelihood, *context, rows=3):
    """Return p(x | z) with every axis a batch axis."""
    return likelihood.observation(random(0, rows, 2), *context).base_dist


@every_family
def test_the_density_is_scipys(make, truth):
    wanted = torch.tensor(truth(X.numpy(), LOG_MEANS.exp().numpy()))
    torch.testing.assert_close(entries(make()).log_prob(X), wanted, rtol=1e-10, atol=1e-10)


@every_family
@pytest.mark.parametrize("column", [False, True])
def test_a_library_size_multiplies_proportions(make, truth, column):
    mean = L[:, None] * LOG_MEANS.softmax(0)
    size = L[:, None] if column else L
    wanted = torch.tensor(truth(X.numpy(), mean.numpy()))
    found = entries(make(library=True), size).log_prob(X)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@every_family
def test_the_probabilities_sum_to_one(make, truth):
    x = torch.arange(4000.0, dtype=torch.float64)[:, None].expand(-1, 3)
    # The tail left out is below 1e-10: the widest has mean 5 and variance 10, or mean 0.6 and r
    # 0.4, which falls by a factor of (1 + r / mean) at each count.
    total = entries(make(), rows=4000).log_prob(x).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


def same_distribution(drawn, probabilities):
    """Hold draws [M] against P(0), P(1), ... by a chi-square test; rare counts go together."""
    expected = len(drawn) * probabilities
    common = int((expected >= 10).nonzero().max()) + 1
    observed = torch.bincount(drawn.long().clamp(max=common), minlength=common + 1).double()
    rest = len(drawn) - expected[:common].sum()
    expected = torch.cat([expected[:common], rest[None]])
    keep = expected > 1
    lumped = torch.stack([observed[~keep].sum(), expected[~keep].sum()])
    observed, expected = observed[keep], expected[keep]
    observed[-1], expected[-1] = observed[-1] + lumped[0], expected[-1] + lumped[1]
    return scipy.stats.chisquare(observed, expected).pvalue > FALSE_ALARM


@every_family
def test_draws_agree_with_the_probabilities(make, truth):
    likelihood = make(library=True)
    size = torch.full((20_000,), 9.0, dtype=torch.float64)
    drawn = entries(likelihood, size, rows=20_000).sample()
    counts = torch.arange(1000.0, dtype=torch.float64)[:, None].expand(-1, 3)
    table = entries(likelihood, size[:1000], rows=1000).log_prob(counts).exp().detach()
    for column in range(3):
        assert same_distribution(drawn[:, column], table[:, column])
        wrong = entries(make(), rows=1000).log_prob(counts).exp().detach()[:, column]
        assert not same_distribution(drawn[:, column], wrong), "the test cannot fail"


@every_family
def test_the_mean_and_variance_are_those_of_the_probabilities(make, truth):
    x = torch.arange(4000.0, dtype=torch.float64)[:, None].expand(-1, 3)
    fn = entries(make(), rows=4000)
    p = fn.log_prob(x).exp()
    mean = (p * x).sum(0)
    variance = (p * (x - mean).square()).sum(0)
    torch.testing.assert_close(fn.mean[0], mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(fn.variance[0], variance, rtol=1e-8, atol=0)


def exact(log_mean, log_r, count):
    """Return the log-probability of a count with fifty digits."""
    mean, r, x = mpmath.exp(log_mean), mpmath.exp(log_r), mpmath.mpf(count)
    ways = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
    return ways + x * mpmath.log(mean / (r + mean)) - r * mpmath.log1p(mean / r)


def slopes(log_mean, log_r, count):
    """Return the slopes of the log-probability in the two parameters."""
    return (
        float(mpmath.diff(lambda h: exact(h, log_r, count), log_mean)),
        float(mpmath.diff(lambda h: exact(log_mean, h, count), log_r)),
    )


@pytest.mark.parametrize("h", [-20.0, 2.0, 20.0])
@pytest.mark.parametrize("log_r", [-20.0, -3.0, 0.0, 3.39, 3.41, 5.0, 20.0])
@pytest.mark.parametrize("count", [0.0, 1.0, 35.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes_hold_at_extremes(h, log_r, count, dtype):
    """Either side of r = 30, too, where the log-gammas give way to Stirling's series."""
    log_mean = torch.tensor(h, dtype=dtype, requires_grad=True)
    concentration = torch.tensor(log_r, dtype=dtype, requires_grad=True)
    fn = OverdispersedPoisson(log_mean, concentration)
    found = fn.log_prob(torch.tensor(count, dtype=dtype))
    found.backward()
    with mpmath.workdps(50):
        wanted = float(exact(h, log_r, count))
        of_mean, of_r = slopes(h, log_r, count)
    # Each of (x + r), (x + mu) is multiplied by logarithms of them, rounded; two roundings, and
    # 1e-13 of a nat for the series.
    terms = (count + math.exp(min(h, log_r)) + 1) * (abs(h) + abs(log_r) + 20)
    near = 2 * torch.finfo(dtype).eps * terms + 1e-12
    assert found.item() == pytest.approx(wanted, abs=near)
    assert log_mean.grad.item() == pytest.approx(of_mean, abs=near)
    assert concentration.grad.item() == pytest.approx(of_r, abs=near)


def test_single_precision_keeps_its_digits_where_torchs_loses_them():
    x, log_mean, log_r = torch.tensor(3.0), torch.tensor(0.7), torch.tensor(16.0)
    wanted = OverdispersedPoisson(log_mean.double(), log_r.double()).log_prob(x.double()).item()
    found = OverdispersedPoisson(log_mean, log_r).log_prob(x).item()
    torchs = torch.distributions.NegativeBinomial(log_r.exp(), logits=log_mean - log_r)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert abs(torchs.log_prob(x).item() - wanted) > 1


@pytest.mark.parametrize("h", [-50.0, -20.0, 20.0, 50.0])
@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("family", ["Poisson", "NB", "ZINB", "Multinomial"])
def test_gradients_stay_finite_whatever_the_network_says(family, library, h):
    net = nn.Linear(2, 6 if family == "ZINB" else 3)
    nn.init.zeros_(net.weight)
    net.bias.data = h * torch.tensor([1.0, -1.0, 0.0] * (len(net.bias) // 3))
    likelihood = {
        "Poisson": lambda: likelihoods.Poisson(net, library=library),
        "NB": lambda: likelihoods.NegativeBinomial(net, 3, library=library),
        "ZINB": lambda: likelihoods.ZeroInflatedNegativeBinomial(net, 3, library=library),
        "Multinomial": lambda: likelihoods.Multinomial(net, library=library),
    }[family]()
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 300.0], [1e5, 0.0, 1.0]])
    context = (x.sum(1),) if library else ()
    log_p = likelihood.observation(torch.zeros(3, 2), *context).log_prob(x)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad.isfinite().all(), name


class Images(nn.Module):
    """Return images of 2 channels and 3 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 24)

    def forward(self, z):
        return self.net(z).unflatten(-1, (2, 3, 4))


@pytest.mark.parametrize("lead", [(5,), (7, 5), (1, 3)])
@pytest.mark.parametrize(
    ("family", "library"),
    [
        (likelihoods.Multinomial, False),
        (likelihoods.Multinomial, True),
        (likelihoods.Poisson, True),
    ],
)
def test_proportions_of_images_are_not_those_of_each_row(family, library, lead):
    context = (torch.full(lead[-1:], 9.0),) if library else ()
    z = torch.zeros(*lead, 2)
    with pytest.raises(ValueError, match=r"are of all counts of a datum.*Flatten\(-3\)"):
        family(Images(), library=library).observation(z, *context)
    found = family(nn.Sequential(Images(), nn.Flatten(-3)), library=library)
    assert found.observation(z, *context).event_shape == (24,)


def test_images_of_counts_without_proportions_are_scored_as_their_vectors():
    net, x, z = Images(), torch.poisson(torch.ones(5, 2, 3, 4)), torch.randn(5, 2)
    images = likelihoods.Poisson(net).observation(z).log_prob(x)
    vectors = likelihoods.Poisson(nn.Sequential(net, nn.Flatten(-3))).observation(z)
    torch.testing.assert_close(images, vectors.log_prob(x.flatten(1)))


def test_doubling_the_library_doubles_the_mean_and_the_latents_do_not_see_it():
    likelihood = likelihoods.NegativeBinomial(MLP(2, 8, 3), 3, library=True)
    z = torch.randn(4, 2)
    one = likelihood.observation(z, torch.full((4,), 50.0)).mean
    two = likelihood.observation(z, torch.full((4, 1), 100.0)).mean
    torch.testing.assert_close(two, 2 * one)
    torch.testing.assert_close(one.sum(-1), torch.full((4,), 50.0))


def test_context_before_the_library_reaches_the_network():
    likelihood = likelihoods.Poisson(MLP(2 + 1, 3), library=True)
    z, label, size = torch.randn(4, 2), torch.randn(4, 1), torch.full((4,), 10)
    wanted = 10 * likelihood.net.net(z, label).softmax(-1)
    torch.testing.assert_close(likelihood.observation(z, label, size).mean, wanted)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 1, 1), ()])
def test_a_library_of_another_shape_is_refused(shape):
    likelihood = likelihoods.Poisson(MLP(2, 3), library=True)
    with pytest.raises(ValueError, match="Poisson takes the library size") as error:
        likelihood.observation(torch.zeros(4, 2), torch.ones(shape))
    assert f"(4,) or (4, 1); got {shape}" in str(error.value)
    with pytest.raises(ValueError, match="library size .* got NoneType: pass x.sum"):
        likelihood.observation(torch.zeros(4, 2))


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("family", [poisson, negative_binomial, zero_inflated])
def test_the_likelihood_starts_at_the_mean_of_the_data(family, library):
    x = torch.poisson(torch.tensor([0.5, 3.0, 30.0]).expand(100, 3)).double()
    likelihood = family(library=library)
    likelihood.net = SaysLinear(likelihood.net, library)
    likelihood.start_at_mean(x)
    size = (torch.full((3,), 1.0).double() * x.sum(1).mean(),) if library else ()
    found = entries(likelihood, *size).mean[0]
    # Half a count on a hundred data, and a gate of 1% where the proportions sum to 1.
    wanted = (x.sum(0) + 0.5) / 101
    if library:
        wanted = wanted / wanted.sum() * size[0][0] * (0.99 if family is zero_inflated else 1.0)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


class SaysLinear(nn.Module):
    """A network with a last bias in place of one that says a constant."""

    def __init__(self, net, library):
        super().__init__()
        self.library = library
        width = (net.net if library else net).output.numel()
        self.linear = nn.Linear(2, width).double()
        nn.init.zeros_(self.linear.weight)

    def forward(self, z, *context):
        output = self.linear(z)
        return torch.cat([output, context[0][:, None]], -1) if self.library else output


# Multinomial.

PROBS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def vectors(total, width=3):
    every = itertools.product(range(total + 1), repeat=width)
    return torch.tensor([v for v in every if sum(v) == total], dtype=torch.float64)


@pytest.mark.parametrize("total", [0, 1, 7])
def test_the_multinomial_is_scipys_and_sums_to_one(total):
    x = vectors(total)
    logits = (PROBS.log() + 3.0).expand(len(x), 3)
    for given in (None, torch.full((len(x),), float(total)).double()):
        log_p = TotalsMultinomial(logits, given).log_prob(x)
        wanted = scipy.stats.multinomial.logpmf(x.numpy(), total, PROBS.numpy())
        torch.testing.assert_close(log_p, torch.tensor(wanted), rtol=1e-10, atol=1e-10)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_draws_of_a_multinomial_have_each_datum_s_total_and_its_probabilities():
    totals = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).repeat(20_000)
    drawn = TotalsMultinomial(PROBS.log().expand(len(totals), 3), totals).sample()
    assert torch.equal(drawn.sum(-1), totals)
    x = vectors(4)
    code = torch.tensor([25.0, 5.0, 1.0], dtype=torch.float64)
    seen = torch.bincount((drawn[totals == 4] @ code).long(), minlength=125)
    expected = 20_000 * scipy.stats.multinomial.pmf(x.numpy(), 4, PROBS.numpy())
    found = seen[(x @ code).long()]
    assert found.sum() == 20_000
    assert scipy.stats.chisquare(found, expected).pvalue > FALSE_ALARM


def test_a_multinomial_draws_under_the_plate_of_particles():
    likelihood = likelihoods.Multinomial(MLP(2, 3), library=True)
    totals = torch.tensor([5, 0, 70, 2])
    with pyro.plate("particles", 6, dim=-2), pyro.plate("data", 4, dim=-1):
        drawn = likelihood(torch.randn(6, 4, 2), None, totals)
    assert torch.equal(drawn.sum(-1), totals.expand(6, 4).float())


def test_the_mean_of_a_multinomial_is_its_total_times_the_probabilities():
    totals = torch.tensor([2.0, 10.0]).double()
    mean = TotalsMultinomial(PROBS.log().expand(2, 3), totals).mean
    torch.testing.assert_close(mean, totals[:, None] * PROBS)


def test_probabilities_that_underflow_draw_and_score_without_nan():
    logits = torch.tensor([[0.0, -500.0, -500.0], [-500.0, 0.0, -500.0]])
    fn = TotalsMultinomial(logits, torch.tensor([9.0, 9.0]))
    drawn = fn.sample()
    assert drawn.tolist() == [[9, 0, 0], [0, 9, 0]]
    assert fn.log_prob(drawn).tolist() == [0, 0]


@pytest.mark.parametrize("ask", [lambda fn: fn.sample(), lambda fn: fn.mean])
def test_a_multinomial_without_a_total_says_what_is_missing(ask):
    fn = likelihoods.Multinomial(MLP(2, 3)).observation(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="needs the total of each datum: .* library=True"):
        ask(fn)


def test_counts_that_do_not_sum_to_the_total_are_refused():
    vae = counts_vae(likelihoods.Multinomial(MLP(2, 3), library=True), library=True)
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    assert pv.log_weights(vae, x, x.sum(1), particles=2).isfinite().all()
    with pytest.raises(ValueError, match="site 'x' .*datum sum to 4, but its total is 5"):
        pv.log_weights(vae, x, torch.tensor([6.0, 5.0]), particles=2)


# In a VAE.


def counts_vae(likelihood, *, library=False):
    encoder = LogCounts(MLP(3 + library, 4), library=library)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(encoder))


def test_the_encoder_sees_logarithms_of_counts_and_of_the_library():
    encoder = LogCounts(MLP(4, 2), library=True)
    x = torch.tensor([[0.0, 9.0, 1000.0]])
    wanted = encoder.net(torch.tensor([[1.0, 10.0, 1001.0, 1010.0]]).log())
    torch.testing.assert_close(encoder(x, x.sum(1)), wanted)


@pytest.mark.parametrize("value", [-1.0, 0.5])
@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: likelihoods.Poisson(MLP(2, 3)),
        lambda: likelihoods.NegativeBinomial(MLP(2, 3), 3),
        lambda: likelihoods.ZeroInflatedNegativeBinomial(MLP(2, 6), 3),
        lambda: likelihoods.Multinomial(MLP(2, 3)),
    ],
)
def test_what_is_no_count_is_refused_before_the_first_step(likelihood, value):
    vae = counts_vae(likelihood())
    assert vae.likelihood.domain is constraints.nonnegative_integer
    x = torch.ones(4, 3)
    x[2, 1] = value
    name = type(vae.likelihood).__name__
    with pytest.raises(ValueError, match=f"{name} takes .*counts.*; got {value:g} at row 2"):
        pv.fit(vae, x, epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda net: likelihoods.NegativeBinomial(net, 4),
            "NegativeBinomial with 4 .* returned 3",
        ),
        (
            lambda net: likelihoods.NegativeBinomial(net, 1),
            "NegativeBinomial with 1 .* returned 3",
        ),
        (lambda net: likelihoods.ZeroInflatedNegativeBinomial(net, 3), "multiple of 2 .*got 3"),
    ],
)
def test_a_network_of_another_width_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(MLP(2, 3)).observation(torch.zeros(4, 2))


def test_no_columns_are_refused():
    with pytest.raises(ValueError, match="NegativeBinomial needs at least one column; got 0"):
        likelihoods.NegativeBinomial(MLP(2, 3), 0)


def test_a_class_summed_out_meets_the_library_of_every_datum():
    """Proportions [C, 1, 1, D] of a class alone: the evidence is a sum of C multinomials."""
    table, weights = random(3, 2, 3), torch.tensor([0.3, 0.7]).double()

    class Rows(nn.Module):
        def forward(self, z, *context):
            return table[z.squeeze(-1).long()]

    likelihood = likelihoods.Poisson(Rows(), library=True)

    def prior(*context):
        c = pyro.sample(
            "c", pyro.distributions.Categorical(weights), infer={"enumerate": "parallel"}
        )
        return c.unsqueeze(-1)

    vae = pv.VAE(prior, likelihood, lambda x, *context: None)
    x = X + 1
    found = pv.log_weights(vae, x, x.sum(1), particles=1)
    mean = x.sum(1)[:, None, None] * table.softmax(-1)
    log_p = torch.tensor(scipy.stats.poisson.logpmf(x.numpy()[:, None], mean.numpy())).sum(-1)
    wanted = (log_p + weights.log()).logsumexp(-1)
    torch.testing.assert_close(found[0], wanted, rtol=1e-10, atol=0)
