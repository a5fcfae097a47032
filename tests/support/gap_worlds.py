"""Worlds and guides whose gaps are known."""

import torch
from torch import nn
from worlds import LinearGaussian

from pyrovae import guides
from pyrovae.measure.refinement.gaps import Gaps
from pyrovae.nets import unconstrained

WORLD = LinearGaussian()


PRECISION = WORLD.covariance.inverse()


class Known(nn.Module):
    """A network that gives the best mean field or the exact posterior, its mean moved."""

    def __init__(self, *, full_rank, shift=0.0):
        super().__init__()
        self.shift = shift
        if full_rank:
            a, b, c = WORLD.scale_tril[torch.tril_indices(2, 2).unbind()]
            self.rest = torch.stack([unconstrained(a), b, unconstrained(c)])
        else:
            self.rest = unconstrained(PRECISION.diagonal().rsqrt())

    def forward(self, x):
        loc = WORLD.posterior_mean(x) + self.shift
        return torch.cat([loc, self.rest.expand(*loc.shape[:-1], -1)], -1)


def full_rank(shift=0.0):
    return WORLD.vae(guides.FullRankNormal(Known(full_rank=True, shift=shift)))


def mean_field(shift=0.0):
    return WORLD.vae(guides.MeanFieldNormal(Known(full_rank=False, shift=shift)))


def small(**options):
    settings = Gaps(**{"steps": 2, "particles": 10, "flow": None, "batch_size": 2} | options)
    return settings, mean_field(), WORLD.sample(5)
