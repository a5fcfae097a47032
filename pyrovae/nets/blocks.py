"""Building blocks of several networks. None of them uses batch statistics."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from pyrovae.data.images import Shape

__all__ = ["Offset", "Residual", "group_norm", "on_images"]

CHANNELS_PER_GROUP: Final = 16


class Residual(nn.Module):
    r"""Add the output of a module to its input, $x + f(x)$.

    References:
        He, Zhang, Ren, Sun, 2016. Deep Residual Learning for Image Recognition.

    Example:
        >>> Residual(nn.ReLU())(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x)."""
        out: Tensor = x + self.inner(x)
        return out


class Offset(nn.Module):
    """Add a learned bias to each entry of the last axis.

    As the last layer of a convolutional network, it gives each pixel its own bias, which
    `set_last_bias` can set; a convolution has one bias per channel only.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., size] plus the bias."""
        return x + self.bias


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization over groups of about 16 channels.

    References:
        Wu, He, 2018. Group Normalization.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // CHANNELS_PER_GROUP)), channels)


def on_images(layers: nn.Module, flat: Tensor, shape: Shape) -> Tensor:
    """Apply convolutions to flat images [..., C * H * W]; return maps [..., C', H', W']."""
    maps: Tensor = layers(flat.reshape(-1, *shape))
    return maps.reshape(*flat.shape[:-1], *maps.shape[1:])
