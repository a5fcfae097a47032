"""Likelihoods of one number for each x_i: densities against scipy's, draws, means, extremes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import nn
from torch.distributions import constraints
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods

NORMAL, LAPLACE, STUDENT = likelihoods.Normal, likelihoods.Laplace, likelihoods.StudentT
DF = 3.5
UNIT = torch.linspace(0.05, 0.95, 15, dtype=torch.float64).reshape(5, 3)


@dataclass(frozen=True)
class Family:
    """What a likelihood is, said by scipy.

    Attributes:
        make: takes a network.
        outputs: the numbers that the network gives for each x_i.
        truth: scipy's distribution of x given these numbers.
        x: data [5, 3] in the domain.
        corners: the points at which a density is hardest to compute.
    """

    make: Callable[[nn.Module], likelihoods.Likelihood]
    outputs: int
    truth: Callable[..., object]
    x: torch.Tensor
    corners: tuple[float, float]


def softplus(h):
    return np.logaddexp(0, h) + 1e-5


def sigmoid(h):
    return 1 / (1 + np.exp(-h))


class TruncatedExponential:
    """exp(h x) on [0, 1] is an exponential of rate |h| cut off at 1; mirrored where h > 0."""

    def __init__(self, h):
        self.h, self.cut = h, stats.truncexpon(b=np.abs(h), scale=1 / np.abs(h))

    def logpdf(self, x):
        return self.cut.logpdf(np.where(self.h > 0, 1 - x, x))


def beta(h, raw):
    a, b = (softplus(raw) * sigmoid(sign * h) + 1e-5 for sign in (1, -1))
    return stats.beta(a, b)


def scaled(family, scipys, **kwargs):
    """Return the three forms of a family of location and scale."""
    x, corners = 2 * random(1, 5, 3), (-50.0, 1e3)
    return {
        f"{family.__name__}, {kind}": Family(
            partial(family, scale=scale, **kwargs), outputs, truth, x, corners
        )
        for kind, scale, outputs, truth in (
            ("fixed", 0.3, 1, lambda h: scipys(h, 0.3)),
            ("learned", "learned", 1, lambda h: scipys(h, 1.0)),
            ("network", "network", 2, lambda h, raw: scipys(h, softplus(raw))),
        )
    }


CONTINUOUS = {
    **scaled(NORMAL, stats.norm),
    **scaled(LAPLACE, stats.laplace),
    **scaled(STUDENT, lambda m, s: stats.t(DF, m, s), df=DF),
    "ContinuousBernoulli": Family(
        likelihoods.ContinuousBernoulli, 1, TruncatedExponential, UNIT, (0.0, 1.0)
    ),
    "Beta": Family(likelihoods.Beta, 2, beta, UNIT, (1e-6, 1 - 1e-6)),
}
BERNOULLI = Family(
    likelihoods.Bernoulli,
    1,
    lambda h: stats.bernoulli(sigmoid(h)),
    (UNIT > 0.4).double(),
    (0.0, 1.0),
)
FAMILIES = {"Bernoulli": BERNOULLI, **CONTINUOUS}
every = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
continuous = pytest.mark.parametrize("family", CONTINUOUS.values(), ids=CONTINUOUS.keys())
location_scale = pytest.mark.parametrize("family", [NORMAL, LAPLACE, STUDENT])


def outputs_of(family, seed=0, rows=5, width=3):
    """Return what a network might give, [rows, outputs, width].

    Scales and concentrations are around 2: a beta's tail beyond the last float64 below 1 is none.
    """
    centers = torch.tensor([0.0, 2.0])[: family.outputs, None]
    return centers + 0.5 * random(seed, rows, family.outputs, width)


def distribution(family, h):
    """Return p(x | z) where the network says h [N, outputs, D]."""
    return family.make(nn.Identity()).to(h.dtype).observation(h.flatten(1))


def site_of(likelihood, z, x=None):
    with poutine.trace() as tape, pyro.plate("data", z.shape[-2], dim=-1):
        value = likelihood(z, x)
    site = tape.trace.nodes["x"]
    return site["fn"], value, site["is_observed"]


def grid_of(family, steps=40_001):
    """Return points and the weights of a trapezoid rule: x = sinh(t), or the logistic of t."""
    t = torch.linspace(-36, 36, steps, dtype=torch.float64)
    slope = t.cosh() if family.corners[1] > 1 else t.sigmoid() * (-t).sigmoid()
    x = t.sinh() if family.corners[1] > 1 else t.sigmoid()
    return x, slope * (t[1] - t[0])


def densities(family, h, x):
    """Return p(x | z) of one-dimensional x on a grid, [len(x), N]."""
    log_p = distribution(family, h).log_prob(x.to(h.dtype)[:, None, None])
    return log_p.detach().double().exp()


@every
def test_the_density_is_scipys_summed_over_x(family):
    h = outputs_of(family)
    fn, value, observed = site_of(family.make(nn.Identity()).double(), h.flatten(1), family.x)
    assert observed
    assert value is family.x
    truth = family.truth(*h.numpy().swapaxes(0, 1))
    score = truth.logpmf if family is BERNOULLI else truth.logpdf
    torch.testing.assert_close(
        fn.log_prob(family.x), torch.as_tensor(score(family.x.numpy()).sum(-1))
    )


@continuous
def test_the_density_integrates_to_one_and_has_its_mean(family):
    h = outputs_of(family, width=1)
    x, weights = grid_of(family)
    mass = densities(family, h, x) * weights[:, None]
    torch.testing.assert_close(mass.sum(0), torch.ones(5).double(), rtol=0, atol=1e-4)
    mean = distribution(family, h).mean.squeeze(-1)
    torch.testing.assert_close((mass * x[:, None]).sum(0), mean, rtol=0, atol=1e-4)


@continuous
def test_draws_have_the_density(family):
    """Kolmogorov and Smirnov's distance to the integral of exp(log_prob), in two contexts."""
    h = outputs_of(family, rows=2, width=1)
    x, weights = grid_of(family)
    below = (densities(family, h, x) * weights[:, None]).cumsum(0).numpy()
    drawn = distribution(family, h).sample((20_000,)).squeeze(-1).numpy()
    for i in range(2):
        found = stats.kstest(drawn[:, i], lambda at, i=i: np.interp(at, x, below[:, i]))
        assert found.pvalue > 1e-4


def test_bernoulli_sums_to_one_and_its_draws_have_its_mean():
    h = outputs_of(BERNOULLI, rows=2)
    fn = distribution(BERNOULLI, h)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double()
    total = fn.log_prob(images[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2).double())
    # Five standard errors of a mean of 20,000 draws, each at most sqrt(1 / 4 / 20,000).
    assert (fn.sample((20_000,)).mean(0) - fn.mean).abs().max() < 5 * 0.5 / 20_000**0.5


@every
def test_x_is_drawn_in_its_domain_where_none_is_given(family):
    likelihood = family.make(pv.nets.MLP(2, 4, 3 * family.outputs))
    fn, value, observed = site_of(likelihood, torch.randn(5, 2))
    assert not observed
    assert value.shape == fn.mean.shape == (5, 3)
    assert value.dtype == fn.mean.dtype == torch.float32
    pv.data.check_domain(value, likelihood.domain, "the likelihood")


@every
def test_particles_stay_in_front_of_the_data(family):
    z, x = random(2, 4, 5, 2), family.x.double()
    likelihood = family.make(pv.nets.MLP(2, 4, 3 * family.outputs)).double()
    with (
        poutine.trace() as tape,
        pyro.plate("particles", 4, dim=-2),
        pyro.plate("data", 5, dim=-1),
    ):
        likelihood(z, x)
    fn = tape.trace.nodes["x"]["fn"]
    assert (fn.batch_shape, fn.event_shape) == ((4, 5), (3,))
    alone, _, _ = site_of(likelihood, z[2], x)
    torch.testing.assert_close(fn.log_prob(x)[2], alone.log_prob(x))


@every
def test_float32_holds_where_the_network_says_fifty(family):
    """Value and gradient are finite, and the value is float64's up to rounding."""
    signs = list(itertools.product([-50.0, 0.0, 50.0], repeat=family.outputs))
    h = torch.tensor(signs)[:, :, None].expand(-1, -1, 2).clone().requires_grad_()
    x = torch.tensor(family.corners)
    log_p = distribution(family, h).log_prob(x)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert h.grad.isfinite().all()
    exact = distribution(family, h.detach().double()).log_prob(x.double())
    torch.testing.assert_close(log_p.detach().double(), exact, rtol=1e-5, atol=1e-5)


@every
def test_training_starts_at_the_mean_of_the_data(family):
    x = family.x.double()
    likelihood = family.make(nn.Linear(2, 3 * family.outputs)).double()
    nn.init.zeros_(likelihood.net.weight)
    mean = likelihood.start_at_mean(x).observation(torch.zeros(1, 2).double()).mean[0]
    # Bernoulli adds half a datum of each kind to the five; Beta's floor moves a mean by 1e-5.
    expected = (x.sum(0) + 0.5) / 6 if family is BERNOULLI else x.mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("h", [0.0, 1e-4, -4.1e-3, 0.3, -5.0, 17.0, 50.0, -300.0])
def test_the_continuous_bernoulli_integrates_to_one_in_float32(h):
    """torch's own misses by 7% at 17, 68% at 50; and its mean at 0.0041 by 3e-4."""
    family = CONTINUOUS["ContinuousBernoulli"]
    x, weights = grid_of(family)
    mass = densities(family, torch.full((1, 1, 1), h), x)[:, 0] * weights
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    mean = float(distribution(family, torch.full((1, 1, 1), h)).mean)
    assert float((mass * x).sum()) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("h", [0.0, 1e-4, 0.249, 0.51, 20.0, -20.0])
def test_the_continuous_bernoullis_slope_is_x_less_its_mean(h):
    """So it is in every exponential family; at 0 the mean is 1/2, and the slope x - 1/2."""
    h = torch.full((5, 1, 3), h, dtype=torch.float64, requires_grad=True)
    fn = distribution(CONTINUOUS["ContinuousBernoulli"], h)
    fn.log_prob(UNIT.double()).sum().backward()
    torch.testing.assert_close(h.grad[:, 0], (UNIT - fn.mean).detach(), rtol=0, atol=1e-9)


def test_a_pixel_that_is_always_black_starts_at_one_in_a_hundred():
    likelihood = likelihoods.ContinuousBernoulli(nn.Linear(2, 3)).start_at_mean(torch.zeros(5, 3))
    mean = likelihood.noise(likelihood.net.bias).mean
    torch.testing.assert_close(mean, torch.full((3,), 0.01), rtol=0, atol=1e-5)


def test_all_axes_beyond_the_latents_are_the_event():
    net = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (3, 2, 2)))
    fn, value, _ = site_of(likelihoods.Bernoulli(net), torch.zeros(5, 2))
    assert (fn.batch_shape, fn.event_shape, value.shape) == ((5,), (3, 2, 2), (5, 3, 2, 2))


@location_scale
def test_only_a_learned_scale_is_trained_and_a_fixed_one_is_kept_with_the_state(family):
    learned, fixed = family(nn.Linear(2, 3)), family(nn.Linear(2, 3), scale=0.3)
    assert set(dict(learned.named_parameters())) - set(dict(fixed.named_parameters())) == {
        "raw_scale"
    }
    assert float(fixed.state_dict()["fixed_scale"]) == pytest.approx(0.3)
    fn, _, _ = site_of(learned, torch.zeros(4, 2), torch.ones(4, 3))
    fn.log_prob(torch.ones(4, 3)).sum().backward()
    assert learned.raw_scale.grad.abs() > 0


@location_scale
@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_a_fixed_scale_that_is_not_positive_and_finite_is_refused(family, scale):
    with pytest.raises(ValueError, match=f"scale must be positive and finite; got {scale}"):
        family(nn.Identity(), scale=scale)


@location_scale
def test_an_unknown_kind_of_scale_is_refused(family):
    with pytest.raises(ValueError, match="a positive number, 'learned' or 'network'; got 'other'"):
        family(nn.Identity(), scale="other")


@pytest.mark.parametrize("df", [0, 1, -2.0, float("nan"), float("inf")])
def test_degrees_of_freedom_without_a_mean_are_refused(df):
    with pytest.raises(ValueError, match=f"finite degrees of freedom above 1; got df={df}"):
        STUDENT(nn.Identity(), df=df)


@pytest.mark.parametrize(
    "make", [likelihoods.Beta, *(partial(f, scale="network") for f in (NORMAL, LAPLACE, STUDENT))]
)
def test_a_width_that_does_not_divide_among_the_parameters_is_refused(make):
    likelihood = make(nn.Linear(2, 5))
    name = type(likelihood).__name__
    with pytest.raises(ValueError, match=rf"{name} expected .* a multiple of 2 outputs.*got 5"):
        site_of(likelihood, torch.zeros(4, 2), torch.ones(4, 3))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (likelihoods.Bernoulli, 0.5, "0 or 1; got 0.5 at row 2. Binarize grayscale pixels"),
        (likelihoods.ContinuousBernoulli, 255.0, r"in \[0, 1\]; got 255 at row 2. Divide"),
        (likelihoods.Beta, 1.0, "above 0 and below 1; got 1 at row 2. Shrink the data"),
        (likelihoods.Beta, 0.0, "above 0 and below 1; got 0 at row 2. Shrink the data"),
    ],
)
def test_data_outside_the_domain_are_refused_before_the_first_step(make, value, message):
    width = 4 if make is likelihoods.Beta else 2
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(2, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), make(pv.nets.MLP(2, width)), guide)
    before = [parameter.clone() for parameter in vae.parameters()]
    x = torch.full((3, 2), 0.4 if make is not likelihoods.Bernoulli else 1.0)
    x[2, 1] = value
    for measured in (partial(pv.fit, epochs=1, callbacks=[]), partial(pv.evaluate, particles=2)):
        with pytest.raises(ValueError, match=f"{make.__name__} takes values that are {message}"):
            measured(vae, x)
    assert all(map(torch.equal, before, vae.parameters()))


def test_domains():
    assert likelihoods.Bernoulli.domain is constraints.boolean
    assert likelihoods.ContinuousBernoulli.domain is constraints.unit_interval
    assert likelihoods.Beta.domain is pv.data.open_unit_interval
    assert {NORMAL.domain, LAPLACE.domain, STUDENT.domain} == {constraints.real}


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        likelihoods.Likelihood(nn.Identity())
