r"""Networks of a residual ladder: levels of latents on feature maps, shared by prior and guide.

    h <- enlarge(h),    z ~ N(m(h), s(h)^2),    h <- block(h + project(z))

Feature maps are flat vectors [..., C * side * side], as images are elsewhere. No network uses
batch statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data.images import Shape
from pyrovae.nets.blocks import Offset, Residual, on_images
from pyrovae.nets.heads import SMALLEST_SCALE, join, positive
from pyrovae.parts import Part

__all__ = ["LadderEncoder", "LadderLevel", "MapsDecoder", "check_sides"]

UNIT: Final = math.log(math.expm1(1 - SMALLEST_SCALE))
"""The output that `positive` maps to 1."""


class LadderLevel(nn.Module):
    """A level of latents: its conditional p(z | h), and the block that takes z into the maps.

    Args:
        side: the height and width of its maps; those that it is given may be smaller.
        before: the side of the maps that it is given.
        latents: the number of latents at each position.
        channels: C.
        shrink: the factor of the block's first weights in the last layer, below 1 in deep ladders.
    """

    def __init__(
        self, side: int, *, before: int, latents: int, channels: int, shrink: float
    ) -> None:
        super().__init__()
        self.side, self.before, self.channels = side, before, channels
        self.latents = latents
        self.conditional = narrow_block(channels, 2 * latents)
        self.project = nn.Conv2d(latents, channels, 1)
        self.block = residual_block(channels, shrink)

    def enlarge(self, h: Tensor) -> Tensor:
        """Return the maps at the side of this level, by repeating pixels."""
        ratio = self.side // self.before
        if ratio == 1:
            return h
        maps = h.reshape(*h.shape[:-1], self.channels, self.before, 1, self.before, 1)
        wider = maps.expand(*maps.shape[:-3], ratio, self.before, ratio)
        return wider.reshape(*h.shape[:-1], -1)

    def parameters_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the scale of p(z | h), [..., D] each."""
        return self.split(on_images(self.conditional, h, self._shape(self.channels)))

    def distribution(self, h: Tensor) -> dist.Distribution:
        """Return p(z | h)."""
        return dist.Normal(*self.parameters_of(h)).to_event(1)

    def residual(self, h: Tensor, changes: Tensor) -> dist.Distribution:
        r"""Return q = N(m(h) + a, (s(h) b)^2) for the changes a and b, maps [..., 2 Z, H, W]."""
        (loc, scale), (shift, factor) = self.parameters_of(h), self.split(changes)
        return dist.Normal(loc + shift, scale * factor).to_event(1)

    def split(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps [..., 2 Z, H, W] as numbers and positive numbers, [..., D] each."""
        loc, raw = maps.chunk(2, dim=-3)
        return loc.flatten(-3), positive(raw.flatten(-3) + UNIT)

    def take(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the maps after z has been added to them, [..., C * side * side]."""
        added = h + on_images(self.project, z, self._shape(self.latents)).flatten(-3)
        return on_images(self.block, added, self._shape(self.channels)).flatten(-3)

    def _shape(self, channels: int) -> Shape:
        return channels, self.side, self.side


class LadderEncoder(nn.Module):
    """Map a flat image [..., c * H * W] to maps for each level, from the top to the bottom.

    Args:
        shape: (c, H, W) of the image.
        sides: the sides of the levels, from the top to the bottom.
        channels: C.

    Raises:
        ValueError: if the image is not square, or its side no multiple of the last one.
    """

    def __init__(self, shape: Shape, sides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.shape, self.sides, self.channels = shape, tuple(sides), channels
        ratio = _ratio(shape, sides[-1])
        self.first = nn.Sequential(
            nn.PixelUnshuffle(ratio),
            nn.Conv2d(shape[0] * ratio**2, channels, 3, padding=1),
        )
        shrink = 1 / math.sqrt(len(sides))
        self.blocks = nn.ModuleList(residual_block(channels, shrink) for _ in sides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps [..., C * side * side] for each level, from the top."""
        flat = join((x,), math.prod(self.shape), self)
        maps = self.first(flat.reshape(-1, *self.shape))
        found = []
        for side, block in zip(reversed(self.sides), self.blocks, strict=True):
            ratio = maps.shape[-1] // side
            maps = block(nn.functional.avg_pool2d(maps, ratio) if ratio > 1 else maps)
            found.append(maps.flatten(1).reshape(*flat.shape[:-1], -1))
        return found[::-1]


class MapsDecoder(Part):
    """Map feature maps [..., C * side * side] to flat images [..., c * H * W].

    It is a convolution to c channels for each pixel of the maps' larger grid, and a bias for each
    pixel: the last layer after a `priors.ResidualLadder`.

    Args:
        maps: (C, side, side).
        shape: (c, H, W) of the image, square, with a side that is a multiple of the maps'. For a
            likelihood with two parameters for each pixel, give twice the channels.

    Raises:
        ValueError: if the image is not square, or its side no multiple of the maps'.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MapsDecoder
        >>> MapsDecoder((16, 8, 8), (1, 32, 32))(torch.zeros(5, 3, 1024)).shape
        torch.Size([5, 3, 1024])
    """

    def __init__(self, maps: Shape, shape: Shape) -> None:
        super().__init__()
        self.maps, ratio = (maps[0], maps[1], maps[2]), _ratio(shape, maps[-1])
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(maps[0], shape[0] * ratio**2, 3, padding=1, bias=False),
            nn.PixelShuffle(ratio),
        )
        self.offset = Offset(math.prod(shape))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the image, flat, [..., c * H * W]."""
        h = join(inputs, math.prod(self.maps), self)
        flat: Tensor = self.offset(on_images(self.layers, h, self.maps).flatten(-3))
        return flat


def residual_block(channels: int, shrink: float) -> Residual:
    """Return x + f(x) of two convolutions, the last with weights that start `shrink` as large."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
    last = layers[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(shrink)
    return Residual(nn.Sequential(*layers))


def narrow_block(channels: int, outputs: int) -> nn.Sequential:
    """Return a convolution of 3 x 3 pixels and one of single pixels to the outputs."""
    return nn.Sequential(
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(channels, outputs, 1),
    )


def check_sides(sides: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of levels from the top, each a multiple of the one above.

    Raises:
        ValueError: if there are none, or one is no multiple of that above it.
    """
    found = tuple(sides)
    if not found or min(found) < 1 or any(b % a for a, b in zip(found, found[1:], strict=False)):
        raise ValueError(
            "a ladder takes the sides of its maps from the top to the bottom, each a multiple of "
            f"the one before, such as (4, 4, 8, 16); got {found}"
        )
    return found


def _ratio(shape: Shape, side: int) -> int:
    """Return how many pixels of an image a position of the maps covers in each direction."""
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] % side:
        raise ValueError(
            f"maps of {side} x {side} take square images (channels, H, H) with H a multiple of "
            f"{side}; got {tuple(shape)}: pad the images, or change the sides of the ladder"
        )
    return shape[1] // side
