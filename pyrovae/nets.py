"""Networks that read the last axis and broadcast over every axis before it.

A likelihood meets latents of shape [N, D] while it trains and [K, N, D] while it is measured, so
every network maps [..., in] to [..., out]. Data are flat vectors: the convolutional pair folds
the last axis to an image and unfolds it again, which makes it a drop-in replacement of an `MLP`.
Given several inputs (`net(z, *context)`), an `MLP` or `ConvDecoder` concatenates them along the
last axis; a `ConvEncoder` takes the image alone.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from pyrovae.parts import Part

SMALLEST_SCALE: Final = 1e-5


def positive(h: Tensor) -> Tensor:
    r"""Map a network's output to a scale, $\log(1 + e^h) + 10^{-5}$.

    The value is finite and its square is a normal float32 for every |h| < 1e18: an exponential
    overflows at h = 50 once it is squared, and a bare softplus underflows at h = -50.

    Example:
        >>> positive(torch.tensor([-50.0, 0.0, 50.0]))
        tensor([1.0000e-05, 6.9316e-01, 5.0000e+01])
    """
    return nn.functional.softplus(h) + SMALLEST_SCALE


def join(inputs: tuple[Tensor, ...], size: int, owner: nn.Module) -> Tensor:
    """Concatenate inputs along the last axis, leading axes broadcast, and check the width.

    Raises:
        ValueError: if the joined width is not `size`, or the dtype is not that of the weights.
    """
    joined = inputs[0]
    if len(inputs) > 1:
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        joined = torch.cat([x.expand(*lead, x.shape[-1]) for x in inputs], dim=-1)
    name = type(owner).__name__
    if joined.ndim == 0 or joined.shape[-1] != size:
        shapes = " + ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"{name} expected inputs [..., {size}]; got {shapes}. "
            "Images are flat vectors here: x.flatten(1)"
        )
    wanted = next(owner.parameters()).dtype
    if joined.dtype != wanted:
        raise ValueError(
            f"{name} has weights of {wanted}; got inputs of {joined.dtype}. "
            f"Convert them with x.to({wanted})"
        )
    return joined


def set_last_bias(net: nn.Module, output: Tensor) -> None:
    """Make a network's output start around given values: set the bias of its last layer.

    Where that bias has one entry per channel of a flat image, it becomes the channel's mean.

    Raises:
        ValueError: if the last layer has no bias, or one that does not divide the output.
    """
    last = list(net.modules())[-1]
    bias = getattr(last, "bias", None)
    if not isinstance(bias, nn.Parameter) or output.numel() % bias.numel():
        met = "none" if bias is None else tuple(bias.shape)
        raise ValueError(
            f"expected a network that ends in a layer with a bias of width {output.numel()} (or "
            f"one per channel); got {type(last).__name__} with bias {met}"
        )
    with torch.no_grad():
        bias.copy_(output.reshape(bias.numel(), -1).mean(1))


class MLP(Part):
    r"""A multilayer perceptron $[..., s_0] \to [..., s_L]$, linear in its last layer.

    Args:
        *sizes: widths of input, hidden layers and output, at least two.
        activation: the class of the non-linearity between layers.

    Raises:
        ValueError: for fewer than two sizes or a size below 1, and for inputs of another width.

    Example:
        >>> MLP(784, 200, 200, 100, activation=nn.Tanh)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 100])
    """

    def __init__(self, *sizes: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"MLP needs at least two widths, each 1 or more, as MLP(64, 10, 2); got {sizes}"
            )
        self.sizes = tuple(sizes)
        layers: list[nn.Module] = []
        for width, following in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(width, following), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs [..., s_0], concatenated where there are several, to [..., s_L]."""
        out: Tensor = self.layers(join(inputs, self.sizes[0], self))
        return out


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
