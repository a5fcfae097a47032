"""Convolutional and residual encoders and decoders of images with sides of 8 pixels or more.

Every stage halves (or doubles) both sides of the image, as often as leaves the shorter one
between 4 and 7 pixels: twice at 28 pixels, five times at 128. The channels double along with it,
up to eight times their first number. A side that is not divided evenly is rounded down by an
encoder; a decoder makes a larger image and cuts it.
"""

from __future__ import annotations

import abc
import math
from itertools import pairwise
from typing import Final, final

from torch import Tensor, nn

from pyrovae.data.images import Shape
from pyrovae.nets.blocks import Offset, Residual, group_norm, on_images
from pyrovae.nets.heads import join
from pyrovae.parts import Part

__all__ = ["ConvDecoder", "ConvEncoder", "ResNetDecoder", "ResNetEncoder"]

SMALLEST_SIDE: Final = 4
WIDEST: Final = 8


class _ImageEncoder(Part):
    """Convolutions, then a linear layer that reads the features off all of their maps."""

    def __init__(self, shape: Shape, features: int, *, channels: int = 32) -> None:
        super().__init__()
        self.shape = _image(shape)
        stages = _stages(self.shape)
        body, width = self.convolutions(stages, channels)
        sides = math.prod(side >> stages for side in self.shape[1:])
        self.layers = nn.Sequential(*body, nn.Flatten(), nn.Linear(width * sides, features))

    @abc.abstractmethod
    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return layers that halve the image so many times, and the channels of their output."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Map flat images [..., C * H * W] to features [..., F]."""
        return on_images(self.layers, join((x,), math.prod(self.shape), self), self.shape)


class _ImageDecoder(Part):
    """A linear layer that makes small maps of the latents, then convolutions that enlarge them."""

    def __init__(self, latents: int, shape: Shape, *, channels: int = 32) -> None:
        super().__init__()
        self.latents, self.shape = latents, _image(shape)
        stages = _stages(self.shape)
        body, width = self.convolutions(stages, channels)
        maps = (width, *(math.ceil(side / 2**stages) for side in self.shape[1:]))
        self.layers = nn.Sequential(
            nn.Linear(latents, math.prod(maps)), nn.Unflatten(-1, maps), *body
        )
        self.offset = Offset(math.prod(self.shape))

    @abc.abstractmethod
    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return layers that double the maps so many times, and the channels of their input."""

    @final  # type: ignore[misc]
    def forward(self, *inputs: Tensor) -> Tensor:
        """Map latents [..., D], concatenated with any context, to flat images [..., C * H * W]."""
        z = join(inputs, self.latents, self)
        _, height, width = self.shape
        image = self.layers(z.reshape(-1, self.latents))[..., :height, :width]
        flat: Tensor = self.offset(image.reshape(*z.shape[:-1], -1))
        return flat


class ConvEncoder(_ImageEncoder):
    """Map flat images [..., C * H * W] to [..., features] by strided convolutions.

    One convolution of stride 2 for each stage, and a linear layer; no normalization.

    Args:
        shape: (channels, height, width) of an image, both sides 8 or more.
        features: width of the output.
        channels: width of the first convolution; each later one has twice as many, up to 8 times.

    Raises:
        ValueError: for another shape, and for inputs of another width.

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28), 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 40])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a strided convolution and a rectifier for each stage."""
        widths = [self.shape[0], *_widths(stages, channels)]
        body: list[nn.Module] = []
        for width, following in pairwise(widths):
            body += [nn.Conv2d(width, following, 4, stride=2, padding=1), nn.ReLU()]
        return body, widths[-1]


class ConvDecoder(_ImageDecoder):
    """Map latents [..., D] to flat images [..., C * H * W], the mirror of `ConvEncoder`.

    Args:
        latents: width of the input (of all inputs together, where there are several).
        shape: (channels, height, width) of an image, both sides 8 or more. A likelihood that
            wants two numbers for each pixel takes an image of twice the channels.
        channels: width of the last hidden layer; each earlier one has twice as many, up to 8
            times.

    Raises:
        ValueError: as `ConvEncoder`.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (1, 28, 20))(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 560])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a rectifier and a transposed convolution for each stage."""
        widths = _widths(stages, channels)[::-1]
        body: list[nn.Module] = []
        for width, following in pairwise(widths):
            body += [nn.ReLU(), nn.ConvTranspose2d(width, following, 4, stride=2, padding=1)]
        image = nn.ConvTranspose2d(channels, self.shape[0], 4, stride=2, padding=1, bias=False)
        return [*body, nn.ReLU(), image], widths[0]


class ResNetEncoder(_ImageEncoder):
    """Map flat images [..., C * H * W] to [..., features] by residual blocks.

    Each stage is a residual block (group normalization, SiLU, 3 x 3 convolution, twice) and a
    convolution of stride 2.

    Args:
        shape: (channels, height, width) of an image, both sides 8 or more.
        features: width of the output.
        channels: width at full resolution; it doubles at each stage, up to 8 times.

    Raises:
        ValueError: as `ConvEncoder`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Wu, He, 2018. Group Normalization.

    Example:
        >>> import torch
        >>> ResNetEncoder((3, 64, 64), 40, channels=4)(torch.zeros(2, 3, 12288)).shape
        torch.Size([2, 3, 40])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a residual block and a strided convolution for each stage, and a last block."""
        widths = _widths(stages + 1, channels)
        body: list[nn.Module] = [nn.Conv2d(self.shape[0], channels, 3, padding=1)]
        for width, following in pairwise(widths):
            body += [_block(width), nn.Conv2d(width, following, 4, stride=2, padding=1)]
        return [*body, _block(widths[-1]), group_norm(widths[-1]), nn.SiLU()], widths[-1]


class ResNetDecoder(_ImageDecoder):
    """Map latents [..., D] to flat images [..., C * H * W], the mirror of `ResNetEncoder`.

    Maps are enlarged by repeating each pixel before a convolution, which leaves no checkered
    pattern.

    Args:
        latents: width of the input (of all inputs together, where there are several).
        shape: as in `ConvDecoder`.
        channels: width at full resolution; each stage before has twice as many, up to 8 times.

    Raises:
        ValueError: as `ConvEncoder`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Odena, Dumoulin, Olah, 2016. Deconvolution and Checkerboard Artifacts.

    Example:
        >>> import torch
        >>> ResNetDecoder(20, (1, 28, 20), channels=4)(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 560])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a residual block and an enlargement for each stage, and the image's layer."""
        widths = _widths(stages + 1, channels)[::-1]
        body: list[nn.Module] = [_block(widths[0])]
        for width, following in pairwise(widths):
            enlarge = nn.Upsample(scale_factor=2)
            body += [enlarge, nn.Conv2d(width, following, 3, padding=1), _block(following)]
        image = nn.Conv2d(channels, self.shape[0], 3, padding=1, bias=False)
        return [*body, group_norm(channels), nn.SiLU(), image], widths[0]


def _block(width: int) -> Residual:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [group_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
    return Residual(nn.Sequential(*layers))


def _image(shape: Shape) -> Shape:
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 2 * SMALLEST_SIDE:
        raise ValueError(
            "convolutional networks take images (channels, height, width) with sides of at "
            f"least {2 * SMALLEST_SIDE} pixels; got {tuple(shape)}. Pad the image, or use an MLP"
        )
    channels, height, width = shape
    return channels, height, width


def _stages(shape: Shape) -> int:
    return (min(shape[1:]) // SMALLEST_SIDE).bit_length() - 1


def _widths(number: int, channels: int) -> list[int]:
    if channels < 1:
        raise ValueError(f"a convolution has at least one channel; got channels={channels}")
    return [channels * min(2**i, WIDEST) for i in range(number)]
