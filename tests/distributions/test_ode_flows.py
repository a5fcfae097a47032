"""Flows of an ODE: densities against the normal that is known, quadrature, draws and Jacobians."""

import math

import pytest
import scipy.stats
import torch
from torch import distributions as td
from torch.func import jacrev, vmap
from worlds import random

import pyrovae as pv
from pyrovae.distributions.ode_flows import ODEFlow, VelocityField, matching_loss
from pyrovae.nets import MLP

MEAN = torch.tensor([0.7, -1.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[2.0, 0.9], [0.9, 0.8]], dtype=torch.float64)
ZERO, ONE = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)


def normal_velocity(u, t):
    """The velocity E[du_t | u_t] that carries N(0, I) to N(MEAN, COVARIANCE), and its trace."""
    t = torch.as_tensor(t, dtype=torch.float64)
    cos, sin = ((math.pi / 2) * t).cos(), ((math.pi / 2) * t).sin()
    eye = torch.eye(2, dtype=torch.float64)
    between = (cos**2)[..., None, None] * eye + (sin**2)[..., None, None] * COVARIANCE
    gain = (sin * cos)[..., None, None] * (COVARIANCE - eye) @ between.inverse()
    moved = (gain @ (u - sin[..., None] * MEAN).unsqueeze(-1)).squeeze(-1)
    slope = gain.diagonal(dim1=-2, dim2=-1).sum(-1)
    v = (math.pi / 2) * (cos[..., None] * MEAN + moved)
    return v, ((math.pi / 2) * slope).expand(u.shape[:-1])


def moved_field(latents, hidden=16, seed=0):
    """Return a velocity field in float64 with weights far from their start."""
    field = VelocityField(latents, hidden).double()
    with torch.no_grad():
        for i, parameter in enumerate(field.parameters()):
            parameter.copy_(0.6 * random(1000 * seed + i, *parameter.shape))
    return field


def moved_flow(latents, steps=16):
    loc, scale = torch.full((latents,), 0.3).double(), torch.full((latents,), 0.8).double()
    return ODEFlow(moved_field(latents).velocity(), loc, scale, steps=steps)


def test_the_density_of_a_normal_is_met_with_an_error_of_fourth_order():
    z = 1.5 * random(1, 50, 2)
    wanted = td.MultivariateNormal(MEAN, COVARIANCE).log_prob(z)
    errors = []
    for steps in (4, 8, 16, 32):
        flow = ODEFlow(normal_velocity, ZERO, ONE, steps=steps)
        errors.append((flow.log_prob(z) - wanted).abs().max().item())
    assert errors[-1] < 1e-5
    ratios = [before / after for before, after in zip(errors, errors[1:], strict=False)]
    assert all(12 < ratio < 20 for ratio in ratios[1:]), ratios  # 2 ** 4 = 16 in the limit


def test_half_the_steps_tell_the_error():
    z = 1.5 * random(1, 50, 2)
    wanted = td.MultivariateNormal(MEAN, COVARIANCE).log_prob(z)
    flow = ODEFlow(normal_velocity, ZERO, ONE, steps=16)
    error, said = (flow.log_prob(z) - wanted).abs(), flow.integration_error(z)
    assert (error < said).all()
    assert 8 < (said.mean() / error.mean()) < 25  # 15 in the limit


@pytest.mark.parametrize("latents", [1, 3])
def test_the_divergence_is_the_trace_of_the_jacobian(latents):
    field, u = moved_field(latents), random(2, 20, latents)
    for t in (0.0, 0.3, 1.0):
        v, divergence = field.velocity()(u, t)
        torch.testing.assert_close(v, field(u, torch.full((20,), t).double()))
        jacobian = vmap(jacrev(lambda one, t=t: field(one, torch.tensor(t).double())))(u)
        wanted = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(divergence, wanted)


@torch.no_grad()
@pytest.mark.parametrize("latents", [1, 2])
def test_a_density_has_the_integral_one(latents):
    points = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid = torch.cartesian_prod(*[points] * latents).reshape(-1, latents)
    flow = moved_flow(latents)
    mass = flow.log_prob(grid).exp() * (points[1] - points[0]) ** latents
    allowed = (mass * flow.integration_error(grid)).sum().item()
    assert allowed < 1e-3
    assert mass.sum().item() == pytest.approx(1, abs=allowed)


@torch.no_grad()
def test_draws_follow_the_density():
    flow = moved_flow(1)
    points = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    density = flow.log_prob(points[:, None]).exp()
    cumulative = density.cumsum(0) * (points[1] - points[0])
    with pv.seeded(0):
        z = flow.sample((4000,))[:, 0]
    below = cumulative[torch.searchsorted(points, z).clamp(max=1000)]
    assert scipy.stats.kstest(below.numpy(), "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(z.numpy(), "norm", (0.3, 0.8)).pvalue < 1e-6  # not where it began


@torch.no_grad()
def test_draws_in_the_plane_have_the_moments_of_the_density():
    flow = moved_flow(2)
    points = torch.linspace(-8, 8, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points)
    weights = flow.log_prob(grid).exp() * (points[1] - points[0]) ** 2
    with pv.seeded(0):
        z = flow.sample((10_000,))
    for of in (lambda z: z, lambda z: z.square(), lambda z: z.prod(-1, keepdim=True)):
        wanted, found = (weights[:, None] * of(grid)).sum(0), of(z)
        error = found.std(0) / math.sqrt(len(z))
        assert ((found.mean(0) - wanted).abs() < 4 * error).all()


def test_the_loss_is_least_at_the_velocity_of_the_flow():
    target = td.MultivariateNormal(MEAN, COVARIANCE)
    with pv.seeded(0):
        u = target.sample((10_000,))
    losses = {}
    for name, change in {"exact": 0.0, "shifted": 0.2}.items():
        with pv.seeded(1):
            found = matching_loss(lambda u, t, c=change: normal_velocity(u, t)[0] + c, u)
        losses[name] = found
    paired = losses["shifted"] - losses["exact"]
    # E|v + c - w|^2 - E|v - w|^2 = |c|^2 at the minimum v, for a constant c.
    error = paired.std() / math.sqrt(len(paired))
    assert abs(paired.mean() - 2 * 0.2**2) < 4 * error


def bimodal():
    parts = td.Normal(torch.tensor([-2.0, 1.0]), torch.tensor([0.4, 0.7]))
    return td.MixtureSameFamily(td.Categorical(torch.tensor([0.4, 0.6])), parts)


def test_matched_to_draws_it_has_their_density():
    target = bimodal()
    with pv.seeded(0):
        z, new = target.sample((4000,))[:, None], target.sample((4000,))[:, None]
        prior = pv.priors.ContinuousFlow(1, hidden=32)
        assert prior.match(z, batches=400, lr=1e-2) is prior
    with torch.no_grad():
        flow, normal = prior.distribution(), td.Normal(prior.loc, prior.scale)
        wanted = target.log_prob(new[:, 0])
        apart = (wanted - flow.log_prob(new)).mean()  # an estimate of KL(target || flow)
        normal_apart = (wanted - normal.log_prob(new)[:, 0]).mean()
    assert normal_apart > 0.2
    assert -0.02 < apart < 0.1 * normal_apart + 0.02
    assert prior.integration_error(new).mean() < 0.01
    prior.steps = 64
    assert prior.integration_error(new).mean() < 1e-4


def test_a_velocity_of_zero_is_the_standard_normal_in_every_bound():
    prior = pv.priors.ContinuousFlow(2, hidden=8, steps=2)
    with torch.no_grad():
        prior.field.outside.weight.zero_()
        prior.field.outside.bias.zero_()
    guide = pv.guides.MeanFieldNormal(MLP(4, 2 * 2))
    likelihood = pv.likelihoods.Normal(MLP(2, 4))
    x, found = torch.randn(5, 4), []
    for each in (prior, pv.priors.StandardNormal(2)):
        with pv.seeded(1):
            found.append(pv.log_weights(pv.VAE(each, likelihood, guide), x, particles=3))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


BAD = {
    "odd steps": (lambda: pv.priors.ContinuousFlow(2, steps=3), "even number .*; got steps=3"),
    "no latents": (lambda: pv.priors.ContinuousFlow(0), "at least one latent dimension; got 0"),
    "no hidden": (lambda: pv.priors.ContinuousFlow(2, hidden=0), "got latents=2, hidden=0"),
    "another width": (
        lambda: pv.priors.ContinuousFlow(2).match(torch.randn(5, 3)),
        r"draws of the aggregate posterior, \[M, 2\] with M > 1; got \(5, 3\)",
    ),
    "a constant": (
        lambda: pv.priors.ContinuousFlow(2).match(torch.zeros(5, 2)),
        "do not vary in a coordinate",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
