"""Objectives whose guide is trained while the model is fixed, however the model computes."""

import pytest
import torch
from learned import parameter
from torch import nn
from torch.utils.checkpoint import checkpoint
from worlds import random

import pyrovae as pv
from pyrovae.objectives import CUBO, IWAE, MIWAE, PIWAE, ReweightedWakeSleep
from pyrovae.objectives.handlers import free_bits


class Product(torch.autograd.Function):
    """A product h w with a backward pass of its own."""

    @staticmethod
    def forward(ctx, h, w):
        ctx.save_for_backward(h, w)
        return h * w

    @staticmethod
    def backward(ctx, slope):
        h, w = ctx.saved_tensors
        return slope * w, (slope * h).sum(tuple(range(slope.ndim - 1)))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.weight = nn.Linear(2, 3), parameter([0.5, 1.0, 2.0])

    def forward(self, z):
        return Product.apply(self.layer(z).tanh(), self.weight)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, z):
        return checkpoint(self.second, self.first(z), use_reentrant=True)


def vae(decoder):
    torch.manual_seed(0)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4))
    likelihood = pv.likelihoods.Normal(decoder(), scale=1.0)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide).double()


def gradients(objective, of, x):
    """Return the gradient of each parameter at the same draws; None where there is none."""
    torch.manual_seed(1)
    of.zero_grad()
    objective.differentiable_loss(of.model, of.guide, x).backward()
    return {name: parameter.grad for name, parameter in of.named_parameters()}


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_a_function_with_its_own_backward_pass_gets_no_gradient(gradient):
    found = gradients(CUBO(2, 4, gradient=gradient), vae(Scaled), random(0, 6, 3))
    trained = {name.partition(".")[0] for name, slope in found.items() if slope is not None}
    assert trained == {"posterior"}


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_piwae_gives_such_a_function_the_gradient_of_iwae_alone(gradient):
    world, x = vae(Scaled), random(0, 6, 3)
    found = gradients(PIWAE(6, k=3, gradient=gradient), world, x)
    of_model = gradients(IWAE(6), world, x)
    of_guide = gradients(MIWAE(6, k=3, gradient=gradient), world, x)
    for name, slope in found.items():
        wanted = (of_guide if name.startswith("posterior") else of_model)[name]
        torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", [CUBO(2, 4), PIWAE(4, k=1)])
def test_a_reentrant_checkpoint_is_refused(objective):
    """It would train its own parameters whenever a gradient passes it."""
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        gradients(objective, vae(Checkpointed), random(0, 6, 3))


@pytest.mark.parametrize("objective", [CUBO(2, 4), ReweightedWakeSleep(4, gradient="dreg")])
def test_the_factor_of_a_handler_is_refused(objective):
    world = vae(Scaled)
    pair = free_bits(50.0).wrap(world.model, world.guide)
    with pytest.raises(ValueError, match=r"'z_free_bits' needs an objective .* such as IWAE"):
        objective.loss(*pair, random(0, 6, 3))
