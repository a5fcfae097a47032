"""The library's parts with their parameters set to what the worlds of `worlds.py` know."""

import torch
from torch import nn

import pyrovae as pv
from pyrovae.nets import unconstrained


def linear(weight, bias, scales):
    """Return a network from h to the means W h + b, and to scales that do not depend on h."""
    net = nn.Linear(weight.shape[1], 2 * len(weight)).double()
    with torch.no_grad():
        net.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        net.bias.copy_(torch.cat([bias, unconstrained(scales)]))
    return net


def exactly(weight):
    """Return the network h -> W h."""
    net = nn.Linear(weight.shape[1], len(weight), bias=False).double()
    net.weight.data = weight.clone()
    return net


def noisy(net, scale):
    """Return the normal likelihood with a scale that is not rounded to float32 first."""
    likelihood = pv.likelihoods.Normal(net, scale=scale).double()
    likelihood.fixed_scale.fill_(scale)
    return likelihood


class OffClasses(nn.Module):
    """The logits of the off posterior of a `Mixture`."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def forward(self, x):
        return 0.5 * self.world.log_joint(x)


class WithinClass(nn.Module):
    """The parameters of p(z | x, c) in the continuous `Mixture`."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def forward(self, x, one_hot):
        exact = self.world.within_class(x, one_hot @ self.world.centers)
        return torch.cat([exact.loc, unconstrained(exact.scale)], -1)
