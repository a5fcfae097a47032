"""Mixtures of normals: densities against torch's, and the gradient of a draw against its truth."""

import math

import pyro.distributions as dist
import pytest
import torch
from densities import FALSE_ALARM, p_value
from scipy import stats
from scipy.optimize import brentq
from torch import distributions as td
from worlds import random

from pyrovae.distributions.mixtures import NormalMixture, mixture


def parameters(components, latents, *batch):
    """Return logits, means and scales in float64, of gradients."""
    logits = random(0, *batch, components)
    loc = 1.2 * random(1, *batch, components, latents)
    scale = (0.4 * random(2, *batch, components, latents)).exp()
    return [value.requires_grad_() for value in (logits, loc, scale)]


def torchs(logits, loc, scale):
    components = td.Independent(td.Normal(loc, scale), 1)
    return td.MixtureSameFamily(td.Categorical(logits=logits), components)


SHAPES = {
    "one for all": ((), (4, 5)),
    "one for each": ((5,), (5,)),
    "particles before each": ((5,), (4, 5)),
    "values within the batch": ((4, 5), (1, 5)),
}


@pytest.mark.parametrize(("batch", "lead"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("latents", [1, 3])
def test_density_and_gradient_are_those_of_torchs_sum(batch, lead, latents):
    mine, others = parameters(4, latents, *batch), parameters(4, latents, *batch)
    values = [random(3, *lead, latents).requires_grad_() for _ in range(2)]
    found = NormalMixture(*mine).log_prob(values[0])
    wanted = torchs(*others).log_prob(values[1])
    assert found.shape == torch.broadcast_shapes(batch, lead)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weight = random(4, *found.shape)
    for loss in ((weight * found).sum(), (weight * wanted).sum()):
        loss.backward()
    for one, other in zip([*mine, values[0]], [*others, values[1]], strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_mean_and_variance_are_torchs(batch):
    mine = parameters(4, 3, *batch)
    found, wanted = NormalMixture(*mine), torchs(*mine)
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.variance, wanted.variance)


def test_single_precision_is_as_good_as_the_numbers_it_is_given():
    # Each term of the squares is up to (4 / 0.05)^2; summed over 50 coordinates in float32 they
    # would lose 1e-2 nats. What is left is the rounding of the answer, some 1e2 nats: 1e-5.
    loc, scale = random(0, 500, 50).float(), 0.05 * random(1, 500, 50).float().exp().clamp(0.5, 2)
    z = loc[:200] + scale[:200] * random(2, 200, 50).float()
    single = NormalMixture(torch.zeros(500), loc, scale).log_prob(z)
    wanted = torchs(torch.zeros(500).double(), loc.double(), scale.double()).log_prob(z.double())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), wanted, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("latents", [1, 2])
@pytest.mark.parametrize("draw", ["sample", "rsample"])
def test_draws_have_the_density(latents, draw):
    mixed = NormalMixture(*(value.detach() for value in parameters(3, latents)))
    assert p_value(mixed.log_prob, getattr(mixed, draw)((20_000,))) > FALSE_ALARM


def test_draws_of_a_batch_are_each_of_their_own_mixture():
    batch = NormalMixture(*(value.detach() for value in parameters(3, 1, 2)))
    z = batch.expand((2,)).sample((20_000,))
    assert z.shape == (20_000, 2, 1)
    for n in range(2):
        alone = NormalMixture(*(value[n].detach() for value in parameters(3, 1, 2)))
        assert p_value(alone.log_prob, z[:, n]) > FALSE_ALARM


def conditional(z, before, logits, loc, scale):
    """Return F(z_d | z_<d) of a mixture, by Bayes' rule over the components."""
    d = len(before)
    known = torch.tensor(before, dtype=torch.float64)
    log_joint = logits + td.Normal(loc[:, :d], scale[:, :d]).log_prob(known).sum(1)
    cdf = stats.norm.cdf((z - loc[:, d].numpy()) / scale[:, d].numpy())
    return float((log_joint.softmax(0).numpy() * cdf).sum())


def transported(uniform, values):
    """Return the draw that the distributional transform maps to uniform numbers."""
    z = []
    for u in uniform:

        def beyond(value, u=u):
            return conditional(value, z, *values) - u

        z.append(brentq(beyond, -50, 50, xtol=1e-14))
    return torch.tensor(z, dtype=torch.float64)


@pytest.mark.parametrize("latents", [1, 3])
def test_a_draw_moves_with_the_parameters_as_the_inverse_transform_does(latents):
    values = parameters(3, latents)
    z = NormalMixture(*values).rsample()
    plain = [value.detach() for value in values]
    point = z.detach().tolist()
    uniform = [conditional(value, point[:d], *plain) for d, value in enumerate(point)]
    torch.testing.assert_close(transported(uniform, plain), z.detach(), rtol=1e-9, atol=1e-9)
    weight, step = random(5, latents), 1e-4
    (weight * z).sum().backward()
    for i, value in enumerate(values):
        for place in range(value.numel()):
            ends = []
            for sign in (1, -1):
                moved = [v.clone() for v in plain]
                moved[i].view(-1)[place] += sign * step
                ends.append((weight * transported(uniform, moved)).sum())
            slope = (ends[0] - ends[1]) / (2 * step)
            # Central differences err by step^2 = 1e-8 times a third derivative of some 10.
            assert float(value.grad.view(-1)[place]) == pytest.approx(float(slope), abs=1e-7)


@pytest.mark.parametrize("latents", [1, 2, 4])
def test_gradients_of_an_expectation_are_unbiased(latents):
    r"""E sin(a'z) of a mixture is sum_c w_c sin(a'm_c) exp(-a'S_c a / 2)."""
    values, a = parameters(3, latents), random(6, latents)
    logits, loc, scale = values
    damped = (loc @ a).sin() * (-0.5 * (scale * a).square().sum(-1)).exp()
    wanted = torch.autograd.grad((logits.softmax(-1) * damped).sum(), values)
    rows = [value.detach().expand(20_000, *value.shape).requires_grad_() for value in values]
    found = torch.autograd.grad((NormalMixture(*rows).rsample() @ a).sin().sum(), rows)
    for one, other in zip(found, wanted, strict=True):
        # 5 standard errors: below 1e-5 for the some 50 entries together.
        error = 5 * one.std(0) / math.sqrt(len(one))
        assert ((one.mean(0) - other).abs() <= error).all()


def test_with_one_component_a_draw_moves_as_a_normal_does():
    logits, loc, scale = parameters(1, 3)
    z = NormalMixture(logits, loc, scale).rsample((7,))
    noise = (z - loc).detach() / scale.detach()
    weight = random(5, 7, 3)
    (weight * z).sum().backward()
    torch.testing.assert_close(loc.grad[0], weight.sum(0))
    torch.testing.assert_close(scale.grad[0], (weight * noise).sum(0))


def test_a_draw_in_single_precision_has_finite_gradients_where_it_rounds():
    # At 1e4 neighboring numbers of float32 are 1e-3 apart, a hundred scales of 1e-5.
    values = torch.zeros(2), torch.full((2, 3), 1e4), torch.full((2, 3), 1e-5)
    for value in values:
        value.requires_grad_()
    z = NormalMixture(*values).rsample((100,))
    assert z.dtype == torch.float32
    z.sum().backward()
    assert all(value.grad.isfinite().all() for value in values)


def test_without_gradients_a_draw_is_the_same():
    values = parameters(3, 2)
    torch.manual_seed(1)
    with_gradient = NormalMixture(*values).rsample((5,))
    torch.manual_seed(1)
    with torch.no_grad():
        without = NormalMixture(*values).rsample((5,))
    assert with_gradient.requires_grad
    assert not without.requires_grad
    assert torch.equal(with_gradient, without)


FAMILIES = {
    "normals": lambda: dist.Normal(random(1, 4, 2), random(2, 4, 2).exp()).to_event(1),
    "full covariances": lambda: dist.MultivariateNormal(
        random(1, 4, 2), scale_tril=torch.eye(2).double() + random(2, 4, 2, 2).exp().tril()
    ),
    "mixtures": lambda: NormalMixture(*(value.detach() for value in parameters(3, 2, 4))),
    "Laplace": lambda: dist.Laplace(random(1, 4, 2), random(2, 4, 2).exp()).to_event(1),
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_mixture_of_any_family_is_the_sum_written_out(make):
    logits, components, z = random(0, 4), make(), random(3, 7, 5, 2)
    mixed, over_data = mixture(logits, components), mixture(logits, components).expand((7, 5))
    assert (mixed.batch_shape, mixed.event_shape) == ((), (2,))
    weights = logits.exp() / logits.exp().sum()
    # The component's axis is last: the density at each of the values, in turn.
    densities = components.log_prob(z.unsqueeze(-2)).exp()
    wanted = sum(weights[c] * densities[..., c] for c in range(4)).log()
    torch.testing.assert_close(mixed.log_prob(z), wanted)
    torch.testing.assert_close(over_data.log_prob(z), wanted)
    assert over_data.sample().shape == (7, 5, 2)
    assert p_value(mixed.log_prob, mixed.sample((20_000,))) > FALSE_ALARM


def test_scales_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="scale"):
        NormalMixture(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3))
