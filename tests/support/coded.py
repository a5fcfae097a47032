"""Worlds whose latents are known: codes that are the data, and linear VAEs made to fail."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import distributions as td
from torch import nn
from worlds import LinearGaussian, data_plate, random

import pyrovae as pv


def assert_within(number, truth, *, errors=5.0):
    """Within so many standard errors over draws; one in two million misses 5."""
    assert abs(number.mean - truth) < errors * number.error_over_particles, (number, truth)


class Coded:
    """q(z | x) = N(x, s^2) for data x [N, D] that are the codes themselves; p(z) = N(0, I)."""

    def __init__(self, scale, width=2):
        self.scale, self.width = scale, width

    def model(self, x):
        zero = torch.zeros(self.width, dtype=torch.float64)
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.scale).to_event(1), obs=x)

    def guide(self, x):
        with data_plate(x):
            pyro.sample("z", dist.Normal(x, self.scale).to_event(1))

    def log_density(self, x, z):
        """Return log q(z) of the mixture over x, [...]."""
        each = td.Normal(x, self.scale).log_prob(z.unsqueeze(-2)).sum(-1)
        return each.logsumexp(-1) - math.log(len(x))


class Decoder(nn.Module):
    """p(x | z) = N(W z, 0.6^2)."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z, x=None):
        return pyro.sample("x", dist.Normal(z @ self.weight.T, 0.6).to_event(1), obs=x)


class Encoder(nn.Module):
    """q(z | x) = N(A x, s^2)."""

    def __init__(self, gain, scale):
        super().__init__()
        self.gain, self.scale = gain, scale

    def forward(self, x):
        pyro.sample("z", dist.Normal(x @ self.gain.T, self.scale).to_event(1))


def linear(seed, *, decoder=1.0, encoder=1.0):
    """Return a linear VAE, whose parts can be told to ignore what they are given, and data."""
    weight = random(seed, 4, 2)
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.36
    gain = torch.linalg.solve(precision, weight.T / 0.36)
    scale = 1 + encoder * (precision.diagonal().rsqrt() - 1)
    prior = LinearGaussian().prior
    x = random(seed + 100, 300, 2) @ weight.T + 0.6 * random(seed + 200, 300, 4)
    return pv.VAE(prior, Decoder(decoder * weight), Encoder(encoder * gain, scale)), x
