"""Guides: the distribution that a network's output stands for."""

import math
from functools import partial

import pyro
import pytest
import torch
from densities import grid, integral
from torch import distributions as td
from torch import nn
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae import guides
from pyrovae.nets import SMALLEST_SCALE, positive
from pyrovae.train.step import default_loss

GUIDES = {
    "mean field": (guides.MeanFieldNormal, 6),
    "full rank": (guides.FullRankNormal, guides.FullRankNormal.width(3)),
    "low rank": (partial(guides.LowRankNormal, rank=2), guides.LowRankNormal.width(3, 2)),
    "mixture": (
        partial(guides.MixtureOfNormals, components=2, component="marginal"),
        guides.MixtureOfNormals.width(3, 2),
    ),
}


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
def test_posteriors_keep_the_leading_axes_as_batch(family, width, batch):
    posterior = family(nn.Identity()).distribution(random(0, *batch, width))
    assert (posterior.batch_shape, posterior.event_shape) == (batch, (3,))
    if family is not GUIDES["mixture"][0]:
        torch.testing.assert_close(posterior.mean, random(0, *batch, width)[..., :3])


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
@pytest.mark.parametrize("h", [-50.0, 50.0])
def test_densities_and_gradients_stay_finite_at_extreme_outputs(family, width, h):
    parameters = torch.full((2, width), h, requires_grad=True)
    posterior = family(nn.Identity()).distribution(parameters)
    log_q = posterior.log_prob(posterior.rsample())
    log_q.sum().backward()
    assert log_q.isfinite().all()
    assert parameters.grad.isfinite().all()


def test_mean_field_is_a_normal_of_means_then_scales():
    parameters = random(0, 5, 6)
    posterior = guides.MeanFieldNormal(nn.Identity()).distribution(parameters)
    torch.testing.assert_close(posterior.stddev, positive(parameters[:, 3:]))


def test_full_rank_fills_the_cholesky_factor_row_by_row():
    parameters = random(0, 5, 9)
    posterior = guides.FullRankNormal(nn.Identity()).distribution(parameters)
    a, b, c, d, e, f = parameters[0, 3:]
    zero = torch.zeros_like(a)
    factor = [[positive(a), zero, zero], [b, positive(c), zero], [d, e, positive(f)]]
    wanted = torch.stack([torch.stack(row) for row in factor])
    torch.testing.assert_close(posterior.scale_tril[0], wanted)


def test_full_rank_with_the_right_network_is_the_exact_posterior():
    world = LinearGaussian()
    x = world.sample(5)
    net = nn.Linear(3, guides.FullRankNormal.width(2)).double()
    projection = world.covariance @ world.weight.T / world.noise**2
    triangle = world.scale_tril[torch.tril_indices(2, 2).unbind()]
    on_diagonal = torch.tensor([True, False, True])
    raw = (triangle - SMALLEST_SCALE).expm1().log()
    with torch.no_grad():
        net.weight.zero_()
        net.weight[:2] = projection
        net.bias[:2] = -projection @ world.mean
        net.bias[2:] = torch.where(on_diagonal, raw, triangle)
    vae = world.vae(guides.FullRankNormal(net))
    log_w = pv.log_weights(vae, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
def test_context_reaches_the_network(family, width):
    guide = family(pv.nets.MLP(4, width))
    vae = pv.VAE(pv.priors.StandardNormal(3), pv.likelihoods.Normal(pv.nets.MLP(3, 2)), guide)
    x, label = torch.randn(5, 2), torch.randn(5, 2)
    wanted = guide.distribution(guide.net(torch.cat([x, label], -1))).mean
    torch.testing.assert_close(vae.encode(x, label).mean, wanted)


def test_an_odd_width_is_refused_by_mean_field():
    with pytest.raises(ValueError, match="MeanFieldNormal.*even number of outputs, 2 D.*got 7"):
        guides.MeanFieldNormal(nn.Identity()).distribution(torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("width", "remedy"), [(0, None), (3, "5 for D = 2"), (10, "14 for D = 4")]
)
def test_a_width_that_fits_no_dimension_is_refused_by_full_rank(width, remedy):
    message = rf"FullRankNormal.*got {width}\." + (f".*such as {remedy}" if remedy else "")
    with pytest.raises(ValueError, match=message):
        guides.FullRankNormal(nn.Identity()).distribution(torch.zeros(2, width))


def test_low_rank_is_the_normal_of_its_covariance():
    parameters = random(0, 5, guides.LowRankNormal.width(4, 2))
    posterior = guides.LowRankNormal(nn.Identity(), rank=2).distribution(parameters)
    loc, raw, factor = parameters.split([4, 4, 8], dim=-1)
    scale = torch.diag_embed((1 + raw.exp()).log() + SMALLEST_SCALE)
    factor = factor.reshape(5, 4, 2)
    covariance = scale @ (torch.eye(4, dtype=torch.float64) + factor @ factor.mT) @ scale
    wanted = td.MultivariateNormal(loc, covariance)
    z = random(1, 7, 5, 4)
    torch.testing.assert_close(posterior.log_prob(z), wanted.log_prob(z))
    torch.testing.assert_close(posterior.covariance_matrix, covariance)


def test_low_rank_with_the_right_network_is_the_exact_posterior():
    world = LinearGaussian()
    x = world.sample(5)
    net = nn.Linear(3, guides.LowRankNormal.width(2, 1)).double()
    projection = world.covariance @ world.weight.T / world.noise**2
    # In two dimensions: S = diag(s) (I + v v') diag(s) with v = (t, t) for the correlation's sign.
    correlation = world.covariance[0, 1] / world.covariance.diagonal().prod().sqrt()
    size = (correlation.abs() / (1 - correlation.abs())).sqrt()
    factor = torch.stack([size, size * correlation.sign()])
    scale = (world.covariance.diagonal() / (1 + size**2)).sqrt()
    with torch.no_grad():
        net.weight.zero_()
        net.weight[:2] = projection
        net.bias[:2] = -projection @ world.mean
        net.bias[2:4] = (scale - SMALLEST_SCALE).expm1().log()
        net.bias[4:] = factor
    vae = world.vae(guides.LowRankNormal(net, rank=1))
    log_w = pv.log_weights(vae, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)


def test_a_mixture_is_that_of_its_logits_means_and_scales():
    parameters = random(0, 5, guides.MixtureOfNormals.width(3, 2))
    posterior = guides.MixtureOfNormals(nn.Identity(), components=2).distribution(parameters)
    logits, loc, raw = parameters.split([2, 6, 6], dim=-1)
    scale = (1 + raw.exp()).log() + SMALLEST_SCALE
    components = td.Independent(td.Normal(loc.reshape(5, 2, 3), scale.reshape(5, 2, 3)), 1)
    wanted = td.MixtureSameFamily(td.Categorical(logits=logits), components)
    z = random(1, 7, 5, 3)
    torch.testing.assert_close(posterior.log_prob(z), wanted.log_prob(z))


class Square(nn.Module):
    """The likelihood x ~ N(z^2, 1/4): it cannot tell z from -z."""

    def forward(self, z, x=None, *context):
        return pyro.sample("x", pyro.distributions.Normal(z**2, 0.5).to_event(1), obs=x)


class Given(nn.Module):
    """A network whose output is the context: each datum has numbers, and gradients, of its own."""

    def forward(self, x, numbers):
        return numbers


def log_square(z, x):
    """Return log p(x, z) of the world of z ~ N(0, 1) and `Square`, for z [..., 1]."""
    x = torch.tensor(x, dtype=torch.float64)
    return (td.Normal(0.0, 1.0).log_prob(z) + td.Normal(z**2, 0.5).log_prob(x)).sum(-1)


def exact_elbo(numbers, x):
    """Integrate q(z) [log p(x, z) - log q(z)] over one latent, for logits, means, raw scales."""
    logits, loc, raw = (part.double() for part in numbers.reshape(3, -1))
    z, volume = (values.unsqueeze(-1) for values in grid(1))
    scale = (1 + raw.exp()).log() + SMALLEST_SCALE
    components = td.Normal(loc, scale).log_prob(z[:, 0])
    log_q = (logits.log_softmax(-1) + components).logsumexp(-1)
    inside = log_q > -700  # beyond, q is 0 in float64, and has no gradient
    z, log_q, volume = z[inside, 0], log_q[inside], volume[inside, 0]
    return (log_q.exp() * (log_square(z, x) - log_q) * volume).sum()


SPREADS = {
    "apart": (0.0, 0.4, -1.5, 1.9, -1.0, -0.6),
    "overlapping": (0.0, 0.4, -0.8, 0.9, 0.5, 0.8),
}


def mixture_world(component, spread):
    """Return a VAE of a mixture guide, x = 3 for all, and the guide's numbers [N, 6]."""
    guide = guides.MixtureOfNormals(Given(), components=2, component=component)
    vae = pv.VAE(pv.priors.StandardNormal(1), Square(), guide)
    numbers = torch.tensor(SPREADS[spread], dtype=torch.float64)
    many = numbers.expand(20_000, -1).clone().requires_grad_()
    return vae.double(), torch.full((20_000, 1), 3.0, dtype=torch.float64), numbers, many


FORMS = [("enumerated", "apart"), ("enumerated", "overlapping"), ("marginal", "overlapping")]


@pytest.mark.parametrize(("component", "spread"), FORMS)
def test_a_mixture_trains_on_the_elbo_and_its_gradient(component, spread):
    vae, x, numbers, many = mixture_world(component, spread)
    wanted = exact_elbo(numbers.requires_grad_(), 3.0)
    (slope,) = torch.autograd.grad(wanted, numbers)
    loss = default_loss(vae.model, vae.guide, x[:2], many[:2])
    names = {"enumerated": "TraceEnum_ELBO", "marginal": "TraceMeanField_ELBO"}
    assert type(loss).__name__ == names[component]
    value = loss.differentiable_loss(vae.model, vae.guide, x, many)
    value.backward()
    rows = -many.grad
    # 4.5 standard errors: a false alarm in 1e-5 each.
    errors = 4.5 * rows.std(0) / math.sqrt(len(rows))
    assert ((rows.mean(0) - slope).abs() <= errors).all()
    log_w = pv.log_weights(vae, x[:5000], many[:5000].detach(), particles=1)
    # A draw from one component varies more than the average over components does.
    error = 4.5 * float(spread_of_draws(numbers.detach(), 3.0)) / math.sqrt(len(x))
    assert -value.item() / len(x) == pytest.approx(wanted.item(), abs=error)
    if component == "marginal":
        assert log_w.mean().item() == pytest.approx(wanted.item(), abs=2 * error)


def spread_of_draws(numbers, x):
    logits, loc, raw = numbers.reshape(3, -1)
    scale = (1 + raw.exp()).log() + SMALLEST_SCALE
    q = td.MixtureSameFamily(td.Categorical(logits=logits), td.Normal(loc, scale))
    z = q.sample((20_000,))
    return (log_square(z.unsqueeze(-1), x) - q.log_prob(z)).std()


@pytest.mark.parametrize(("component", "spread"), FORMS)
def test_a_mixture_s_weights_have_the_evidence_for_their_mean(component, spread):
    vae, x, _, many = mixture_world(component, spread)
    with torch.no_grad():
        log_w = pv.log_weights(vae, x, many, particles=1)[0].double()
    wanted = integral(partial(log_square, x=3.0), 1)
    error = 4.5 * float(log_w.exp().std()) / math.sqrt(len(x))
    assert float(log_w.exp().mean()) == pytest.approx(wanted, abs=error)


class Constant(nn.Module):
    """A network that gives every datum the same numbers, which are trained."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor(numbers))

    def forward(self, x):
        return self.numbers.expand(*x.shape[:-1], -1)


def test_a_mixture_finds_both_modes_of_a_posterior_and_with_them_the_evidence():
    """One normal holds one of two modes, log 2 below the evidence; a mixture holds both."""
    x = torch.full((5000, 1), 4.0)
    net = Constant(0.0, 1.5, 1.0, -1.0, 0.0, 0.0)
    guide = guides.MixtureOfNormals(net, components=2, component="enumerated")
    vae = pv.VAE(pv.priors.StandardNormal(1), Square(), guide)
    step = pv.Step(optim=pyro.optim.Adam({"lr": 0.05}))
    pv.fit(vae, x, epochs=1, batch_size=25, step=step, callbacks=[])
    numbers = guide.net.numbers.detach()
    evidence = math.log(integral(partial(log_square, x=4.0), 1))
    # The symmetric optimum, found by a search over its two numbers, is this much below.
    best = max(
        float(exact_elbo(torch.tensor([0.0, 0.0, m, -m, raw, raw]), 4.0))
        for m in torch.linspace(1.7, 2.1, 21).tolist()
        for raw in torch.linspace(-3.0, -1.0, 21).tolist()
    )
    assert best > evidence - 0.01
    # What Adam's last steps of 0.05 leave: far from the log 2 = 0.69 of a single normal.
    assert float(exact_elbo(numbers, 4.0)) == pytest.approx(best, abs=0.03)


def test_an_unknown_form_of_mixture_is_refused():
    with pytest.raises(ValueError, match="'marginal' or 'enumerated'; got 'summed'"):
        guides.MixtureOfNormals(nn.Identity(), 2, component="summed")


def test_a_rank_or_a_number_of_components_below_one_is_refused():
    with pytest.raises(ValueError, match="rank of 1 or more; got 0. Rank 0 is MeanFieldNormal"):
        guides.LowRankNormal(nn.Identity(), rank=0)
    with pytest.raises(ValueError, match="MixtureOfNormals.*at least one component; got 0"):
        guides.MixtureOfNormals(nn.Identity(), components=0)


WIDTHS = {
    "low rank": r"LowRankNormal of rank 2 expected.*D \(2 \+ 2\) outputs; got {}.*width\(D, 2\)",
    "mixture": r"MixtureOfNormals of 2 components.* 2 \(1 \+ 2 D\) outputs; got {}.*width\(D, 2\)",
}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("width", [0, 2, 7, 9])
def test_a_width_that_fits_no_dimension_is_refused(name, width):
    with pytest.raises(ValueError, match=WIDTHS[name].format(width)):
        GUIDES[name][0](nn.Identity()).distribution(torch.zeros(2, width))


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        guides.Guide(nn.Identity())


def test_a_datum_that_is_no_batch_is_refused():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, 5, 8)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(8, 5, 4)),
    )
    for use in (vae.encode, vae.reconstruct):
        with pytest.raises(
            ValueError, match=r"got \(8,\), and .* Give a single datum as x\[None\]"
        ):
            use(torch.zeros(8))
        use(torch.zeros(1, 8))
