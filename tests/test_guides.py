"""Guides: the distribution that a network's output stands for."""

import pytest
import torch
from torch import nn
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae import guides
from pyrovae.nets import SMALLEST_SCALE, positive

GUIDES = {
    "mean field": (guides.MeanFieldNormal, 6),
    "full rank": (guides.FullRankNormal, guides.FullRankNormal.width(3)),
}


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
def test_posteriors_keep_the_leading_axes_as_batch(family, width, batch):
    posterior = family(nn.Identity()).posterior(random(0, *batch, width))
    assert (posterior.batch_shape, posterior.event_shape) == (batch, (3,))
    torch.testing.assert_close(posterior.mean, random(0, *batch, width)[..., :3])


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
@pytest.mark.parametrize("h", [-50.0, 50.0])
def test_densities_and_gradients_stay_finite_at_extreme_outputs(family, width, h):
    parameters = torch.full((2, width), h, requires_grad=True)
    posterior = family(nn.Identity()).posterior(parameters)
    log_q = posterior.log_prob(posterior.rsample())
    log_q.sum().backward()
    assert log_q.isfinite().all()
    assert parameters.grad.isfinite().all()


def test_mean_field_is_a_normal_of_means_then_scales():
    parameters = random(0, 5, 6)
    posterior = guides.MeanFieldNormal(nn.Identity()).posterior(parameters)
    torch.testing.assert_close(posterior.stddev, positive(parameters[:, 3:]))


def test_full_rank_fills_the_cholesky_factor_row_by_row():
    parameters = random(0, 5, 9)
    posterior = guides.FullRankNormal(nn.Identity()).posterior(parameters)
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
    log_w = pv.log_weights(vae.model, vae.guide, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("family", "width"), GUIDES.values(), ids=GUIDES.keys())
def test_context_reaches_the_network(family, width):
    guide = family(pv.nets.MLP(4, width))
    vae = pv.VAE(pv.priors.StandardNormal(3), pv.likelihoods.Normal(pv.nets.MLP(3, 2)), guide)
    x, label = torch.randn(5, 2), torch.randn(5, 2)
    wanted = guide.posterior(guide.net(torch.cat([x, label], -1))).mean
    torch.testing.assert_close(vae.encode(x, label).mean, wanted)


def test_an_odd_width_is_refused_by_mean_field():
    with pytest.raises(ValueError, match="MeanFieldNormal.*even number of outputs, 2 D.*got 7"):
        guides.MeanFieldNormal(nn.Identity()).posterior(torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("width", "remedy"), [(0, None), (3, "5 for D = 2"), (10, "14 for D = 4")]
)
def test_a_width_that_fits_no_dimension_is_refused_by_full_rank(width, remedy):
    message = rf"FullRankNormal.*got {width}\." + (f".*such as {remedy}" if remedy else "")
    with pytest.raises(ValueError, match=message):
        guides.FullRankNormal(nn.Identity()).posterior(torch.zeros(2, width))


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        guides.Guide(nn.Identity())
