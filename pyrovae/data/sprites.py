"""Images of one sprite, rendered from the indices of five factors of variation.

The factors are those of dSprites: shape, scale, orientation and the position of the center. All
pixels of a batch are computed at once, on the device of the indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor

from pyrovae.data.factors import FactorGrid, is_whole

__all__ = ["LOOKS", "Look", "Sprites"]

Look = Literal["binary", "color", "noise"]
LOOKS: Final = ("binary", "color", "noise")

AREA: Final = (17 / 64) ** 2
"""The share of the image that a sprite of scale 1 covers, whatever its shape."""

CHUNK: Final = 2**17
"""The number of pixels that are computed at once on a CPU: what its cache holds."""

RADIUS: Final = math.sqrt(AREA / (4 + math.pi))
"""The radius of the heart's two discs at scale 1, half of the side of its square."""

TIP: Final = RADIUS * (math.pi + 4 / 3) / (4 + math.pi) / math.sqrt(2)
"""How far the heart's center of mass lies above the center of its square at scale 1."""


@final
@dataclass(frozen=True)
class Sprites:
    r"""Images of a square, an ellipse or a heart in every position, orientation and scale.

    The factors, `Sprites.factors`, are those of dSprites in its order, with 737,280 combinations:

    - shape: a square, an ellipse with axes as 2 to 1, and a heart, all of the same area;
    - scale: 6 values from 0.5 to 1, where the square's side is 17/64 of the image's;
    - orientation: 40 angles from 0 to $2 \pi$, counterclockwise, the last the same as the first;
    - x and y: 32 values each, the center of mass from 1/4 to 3/4 of the width and, from the top,
      of the height.

    The images are drawn otherwise than those of dSprites. A pixel is 1 if its center is inside of
    the sprite. Two further looks have three channels (Locatello et al., 2019): "color" draws each
    sprite in a random color whose channels are uniform between 0.5 and 1, and "noise" draws a
    white sprite on a background whose values are uniform between 0 and 1.

    Args:
        side: the height and width of the images in pixels; dSprites has 64.
        look: "binary", "color" or "noise".

    Raises:
        ValueError: if the side is no whole number from 8 on or there is no such look.

    References:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner, 2017. beta-VAE.
        Matthey, Higgins, Hassabis, Lerchner, 2017 (dSprites).
        Locatello, Bauer, Lucic, Raetsch, Gelly, Schoelkopf, Bachem, 2019. Challenging Common
        Assumptions in the Unsupervised Learning of Disentangled Representations.

    Example:
        >>> from pyrovae.data import Sprites
        >>> sprites = Sprites(side=64)
        >>> hearts = sprites.factors.sample(5, fixed={"shape": 2})
        >>> sprites.images(hearts).shape, sprites.shape
        (torch.Size([5, 4096]), (1, 64, 64))
    """

    side: int = 32
    look: Look = "binary"

    factors = FactorGrid(("shape", "scale", "orientation", "x", "y"), (3, 6, 40, 32, 32))

    def __post_init__(self) -> None:
        """Check the side and the look."""
        if not is_whole(self.side) or self.side < 8 or self.look not in LOOKS:
            raise ValueError(
                f"sprites have a side of at least 8 pixels and a look of {', '.join(LOOKS)}; got "
                f"side={self.side!r}, look={self.look!r}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return 1 if self.look == "binary" else 3, self.side, self.side

    def images(self, factors: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the images of combinations of factors, flat, float32 [N, C * side * side].

        Args:
            factors: indices [N, 5] of the factors' values, on any device.
            generator: the source of random colors and noise, on the same device; None for torch's
                own.

        Raises:
            ValueError: if the indices are not whole numbers [N, 5] within their ranges.
        """
        self.factors.check(factors)
        masks = self._masks(factors)
        if self.look == "binary":
            return masks.flatten(1)
        if self.look == "color":
            colors = masks.new_empty(len(masks), 3, 1, 1).uniform_(0.5, 1, generator=generator)
            return (masks[:, None] * colors).flatten(1)
        noise = masks.new_empty(len(masks), *self.shape).uniform_(generator=generator)
        return torch.maximum(masks[:, None], noise).flatten(1)

    def _masks(self, factors: Tensor) -> Tensor:
        """Return which pixels are inside of the sprites, float [N, H, W], shape by shape."""
        scale = 0.5 + 0.1 * factors[:, 1]
        angle = factors[:, 2] * (2 * math.pi / 39)
        centers = 0.25 + factors[:, 3:] / 62
        found = torch.empty(len(factors), self.side, self.side, device=factors.device)
        chunk = max(1, CHUNK // self.side**2) if found.device.type == "cpu" else len(found)
        for index, inside in enumerate((_square, _ellipse, _heart)):
            for rows in (factors[:, 0] == index).nonzero().flatten().split(max(1, chunk)):
                across, up = self._own_axes(scale[rows], angle[rows], centers[rows])
                found[rows] = inside(across, up).float()
        return found

    def _own_axes(self, scale: Tensor, angle: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels' coordinates in the sprites' own axes at scale 1, twice [N, H, W]."""
        pixels = (torch.arange(self.side, device=scale.device) + 0.5) / self.side
        x, up = pixels - centers[:, :1], centers[:, 1:] - pixels
        cos, sin = (angle.cos() / scale)[:, None], (angle.sin() / scale)[:, None]
        return (
            (cos * x)[:, None, :] + (sin * up)[:, :, None],
            (cos * up)[:, :, None] - (sin * x)[:, None, :],
        )


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs_(), y.abs_()) <= math.sqrt(AREA) / 2


def _ellipse(x: Tensor, y: Tensor) -> Tensor:
    """An ellipse twice as wide as high."""
    return x.square_() + y.mul_(2).square_() <= 2 * AREA / math.pi


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its tip and, around the centers of its upper sides, two discs."""
    y = y + TIP
    u, v = (y + x).div_(math.sqrt(2)), (y - x).div_(math.sqrt(2))
    square = torch.maximum(u.abs(), v.abs()) <= RADIUS
    norm = u.square() + v.square()
    # |(u, v) - (R, 0)| <= R is u^2 + v^2 <= 2 R u.
    return square | (norm <= torch.maximum(u, v).mul_(2 * RADIUS))
