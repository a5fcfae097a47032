"""Convolutional and residual encoders and decoders for images of at least 8 x 8 pixels.

Each stage halves (or doubles) both sides of the image. The number of stages leaves the shorter
side at 4 to 7 pixels: two stages for 28 pixels, five for 128. Each stage doubles the channels, up
to eight times the first number. Encoders round odd sides down; decoders produce a larger image
and crop it.
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
    """Convolutions, followed by a linear layer to the features."""

    def __init__(self, shape: Shape, features: int, *, channels: int = 32) -> None:
        super().__init__()
        self.shape = _image(shape)
        stages = _stages(self.shape)
        body, width = self.convolutions(stages, channels)
        sides = math.prod(side >> stages for side in self.shape[1:])
        self.layers = nn.Sequential(*body, nn.Flatten(), nn.Linear(width * sides, features))

    @abc.abstractmethod
    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return layers that halve the image `stages` times, and their output channels."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Map flat images [..., C * H * W] to features [..., F]."""
        return on_images(self.layers, join((x,), math.prod(self.shape), self), self.shape)


class _ImageDecoder(Part):
    """A linear layer to small feature maps, followed by convolutions that enlarge them."""

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
        """Return layers that double the maps `stages` times, and their input channels."""

    @final  # type: ignore[misc]
    def forward(self, *inputs: Tensor) -> Tensor:
        """Map latents [..., D], concatenated with the context, to flat images [..., C * H * W]."""
        z = join(inputs, self.latents, self)
        _, height, width = self.shape
        image = self.layers(z.reshape(-1, self.latents))[..., :height, :width]
        flat: Tensor = self.offset(image.reshape(*z.shape[:-1], -1))
        return flat


class ConvEncoder(_ImageEncoder):
    """Map flat images [..., C * H * W] to features [..., F] by strided convolutions.

    Each stage is a convolution of stride 2. A linear layer follows; there is no normalization.

    Args:
        shape: (channels, height, width) of the image, both sides at least 8.
        features: the number F of outputs.
        channels: channels of the first convolution; each stage doubles them, up to 8 times.

    Raises:
        ValueError: if the shape is not that of an image, or an input has the wrong width.

    Example:
        >>> import torch
        >>> from pyrovae.nets import ConvEncoder
        >>> ConvEncoder((1, 28, 28), 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 40])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a strided convolution and a ReLU for each stage."""
        widths = [self.shape[0], *_widths(stages, channels)]
        body: list[nn.Module] = []
        for width, following in pairwise(widths):
            body += [nn.Conv2d(width, following, 4, stride=2, padding=1), nn.ReLU()]
        return body, widths[-1]


class ConvDecoder(_ImageDecoder):
    """Map latents [..., D] to flat images [..., C * H * W] by transposed convolutions.

    It mirrors `ConvEncoder`.

    Args:
        latents: the width of the input, or of the concatenation of several inputs.
        shape: (channels, height, width) of the image, both sides at least 8. For a likelihood
            with two parameters per pixel, give twice the channels.
        channels: channels of the last hidden layer; each earlier stage has twice as many, up to
            8 times.

    Raises:
        ValueError: as `ConvEncoder`.

    Example:
        >>> import torch
        >>> from pyrovae.nets import ConvDecoder
        >>> ConvDecoder(20, (1, 28, 20))(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 560])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a ReLU and a transposed convolution for each stage."""
        widths = _widths(stages, channels)[::-1]
        body: list[nn.Module] = []
        for width, following in pairwise(widths):
            body += [nn.ReLU(), nn.ConvTranspose2d(width, following, 4, stride=2, padding=1)]
        image = nn.ConvTranspose2d(channels, self.shape[0], 4, stride=2, padding=1, bias=False)
        return [*body, nn.ReLU(), image], widths[0]


class ResNetEncoder(_ImageEncoder):
    """Map flat images [..., C * H * W] to features [..., F] by residual blocks.

    Each stage is a residual block (group normalization, SiLU, 3 x 3 convolution, twice) and a
    convolution of stride 2.

    Args:
        shape: (channels, height, width) of the image, both sides at least 8.
        features: the number F of outputs.
        channels: channels at full resolution; each stage doubles them, up to 8 times.

    Raises:
        ValueError: as `ConvEncoder`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Wu, He, 2018. Group Normalization.

    Example:
        >>> import torch
        >>> from pyrovae.nets import ResNetEncoder
        >>> ResNetEncoder((3, 64, 64), 40, channels=4)(torch.zeros(2, 3, 12288)).shape
        torch.Size([2, 3, 40])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a residual block and a strided convolution per stage, and a final block."""
        widths = _widths(stages + 1, channels)
        body: list[nn.Module] = [nn.Conv2d(self.shape[0], channels, 3, padding=1)]
        for width, following in pairwise(widths):
            body += [_block(width), nn.Conv2d(width, following, 4, stride=2, padding=1)]
        return [*body, _block(widths[-1]), group_norm(widths[-1]), nn.SiLU()], widths[-1]


class ResNetDecoder(_ImageDecoder):
    """Map latents [..., D] to flat images [..., C * H * W] by residual blocks.

    It mirrors `ResNetEncoder`. Each stage upsamples by repeating pixels before a convolution,
    which avoids checkerboard artifacts.

    Args:
        latents: the width of the input, or of the concatenation of several inputs.
        shape: as in `ConvDecoder`.
        channels: channels at full resolution; each earlier stage has twice as many, up to 8
            times.

    Raises:
        ValueError: as `ConvEncoder`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Odena, Dumoulin, Olah, 2016. Deconvolution and Checkerboard Artifacts.

    Example:
        >>> import torch
        >>> from pyrovae.nets import ResNetDecoder
        >>> ResNetDecoder(20, (1, 28, 20), channels=4)(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 560])
    """

    def convolutions(self, stages: int, channels: int) -> tuple[list[nn.Module], int]:
        """Return a residual block and an upsampling per stage, and the output layer."""
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
            f"least {2 * SMALLEST_SIDE} pixels; got {tuple(shape)}. Pad the images or use an MLP"
        )
    channels, height, width = shape
    return channels, height, width


def _stages(shape: Shape) -> int:
    return (min(shape[1:]) // SMALLEST_SIDE).bit_length() - 1


def _widths(number: int, channels: int) -> list[int]:
    if channels < 1:
        raise ValueError(f"a convolution needs at least one channel; got channels={channels}")
    return [channels * min(2**i, WIDEST) for i in range(number)]
