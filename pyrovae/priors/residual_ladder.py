r"""A deep prior of many levels on feature maps, whose top-down path a guide shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import pyro
import torch
from torch import Tensor, nn

from pyrovae.nets.ladder import LadderLevel, check_sides
from pyrovae.parts import Part
from pyrovae.priors.base import check_latents

__all__ = ["ResidualLadder"]


class ResidualLadder(Part):
    r"""Sample the sites "z_L", ..., "z_1" top-down, each given all above, and return feature maps.

    $$ p(z_1, \ldots, z_L) = \prod_l N(z_l; m_l(h_l), \mathrm{diag}\, s_l(h_l)^2),\qquad
       h_{l-1} = f_l(h_l + P_l z_l) $$

    The state h is of C maps; it starts at a learned constant, grows to the side of each level by
    repeating pixels, and is returned at the end as the likelihood's input, flat, [..., C * side *
    side]. As it holds what all levels above have added, each latent depends on all of them. f is
    a residual block. The context is ignored.

    Use it with `guides.ResidualLadder` and `nets.MapsDecoder`. `handlers.free_bits(nats,
    per="site")` keeps each level in use: the KL of a site is that of its level. On a CPU, the step
    of many levels takes minutes to compile: train with `Step(compile=False)`.

    Args:
        sides: the sides of the maps of each level, from the top to the bottom, each a multiple of
            the one before: (4, 4, 8, 16) are four levels.
        latents: the number of latents at each position, so that a level has latents * side^2.
        channels: C.

    Attributes:
        maps: (C, side, side) of what it returns.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Child, 2021. Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on
        Images.
        Vahdat, Kautz, 2020. NVAE: A Deep Hierarchical Variational Autoencoder.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> prior = pv.priors.ResidualLadder((2, 4), latents=3, channels=8)
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 5):
        ...     prior().shape
        torch.Size([5, 128])
        >>> [(name, tape.trace.nodes[name]["value"].shape[-1]) for name in ("z_2", "z_1")]
        [('z_2', 12), ('z_1', 48)]
    """

    def __init__(self, sides: Sequence[int], *, latents: int, channels: int = 32) -> None:
        super().__init__()
        self.sides = check_sides(sides)
        check_latents(self, latents)
        if channels < 1:
            raise ValueError(f"ResidualLadder needs at least one channel; got {channels}")
        self.maps = channels, self.sides[-1], self.sides[-1]
        before = (self.sides[0], *self.sides[:-1])
        shrink = 1 / math.sqrt(len(self.sides))
        self.levels = nn.ModuleList(
            LadderLevel(side, before=last, latents=latents, channels=channels, shrink=shrink)
            for side, last in zip(self.sides, before, strict=True)
        )
        self.start = nn.Parameter(0.1 * torch.randn(channels * self.sides[0] ** 2))

    def by_site(self) -> Iterator[tuple[str, LadderLevel]]:
        """Return the levels with the names of their sites, from the top."""
        for number, level in zip(range(len(self.levels), 0, -1), self.levels, strict=True):
            yield f"z_{number}", cast(LadderLevel, level)

    def forward(self, *context: Tensor) -> Tensor:
        """Sample every level and return the feature maps, [..., C * side * side]."""
        h: Tensor = self.start
        for name, level in self.by_site():
            h = level.enlarge(h)
            h = level.take(h, pyro.sample(name, level.distribution(h)))
        return h
