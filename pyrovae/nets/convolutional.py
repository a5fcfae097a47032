"""Convolutional encoders and decoders."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pyrovae.nets.heads import join
from pyrovae.parts import Part


def _square_image(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    channels, height, width = shape
    if height != width or not 28 <= height <= 64 or channels < 1:
        raise ValueError(
            "the convolutional pair takes square images of 28 to 64 pixels, as "
            f"(channels, size, size); got {tuple(shape)}. Pad the image, or use an MLP"
        )
    return channels, height, width


class ConvEncoder(Part):
    """Map flat square images [..., C * S * S] to [..., features] by strided convolutions.

    Two convolutions of stride 2 and a linear layer; no batch statistics, which would tie the
    data of a batch together.

    Args:
        shape: (channels, size, size), size from 28 to 64.
        features: width of the output.
        channels: width of the first convolution; the second has twice as many.

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28), 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 40])
    """

    def __init__(self, shape: tuple[int, int, int], features: int, *, channels: int = 32) -> None:
        super().__init__()
        self.shape = _square_image(shape)
        side = self.shape[-1] // 4
        self.layers = nn.Sequential(
            nn.Conv2d(self.shape[0], channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * side * side, features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map flat images [..., C * S * S] to features [..., F]."""
        x = join((x,), math.prod(self.shape), self)
        out: Tensor = self.layers(x.reshape(-1, *self.shape))
        return out.reshape(*x.shape[:-1], -1)


class ConvDecoder(Part):
    """Map latents [..., D] to flat square images [..., C * S * S], the mirror of `ConvEncoder`.

    Args:
        latents: width of the input (of all inputs together, where there are several).
        shape: (channels, size, size), size from 28 to 64.
        channels: width of the last hidden layer; the one before has twice as many.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (1, 28, 28))(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 784])
    """

    def __init__(self, latents: int, shape: tuple[int, int, int], *, channels: int = 32) -> None:
        super().__init__()
        self.latents, self.shape = latents, _square_image(shape)
        side = math.ceil(self.shape[-1] / 4)
        self.layers = nn.Sequential(
            nn.Linear(latents, 2 * channels * side * side),
            nn.ReLU(),
            nn.Unflatten(-1, (2 * channels, side, side)),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, self.shape[0], 4, stride=2, padding=1),
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map latents [..., D], concatenated with any context, to flat images."""
        z = join(inputs, self.latents, self)
        size = self.shape[-1]
        out: Tensor = self.layers(z.reshape(-1, self.latents))[..., :size, :size]
        return out.reshape(*z.shape[:-1], -1)
