"""Perceptrons: plain, gated and residual."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from pyrovae.nets.blocks import Residual
from pyrovae.nets.heads import join
from pyrovae.parts import Part

__all__ = ["MLP", "GatedMLP", "ResidualMLP"]


class _Perceptron(Part):
    """Hidden layers, made by a function of their widths, and a linear one at the end."""

    def __init__(
        self, sizes: tuple[int, ...], hidden: Callable[[int, int], list[nn.Module]]
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs at least two widths, each 1 or more, as {name}(64, 10, 2); "
                f"got {sizes}"
            )
        self.sizes = tuple(sizes)
        layers = [layer for pair in pairwise(sizes[:-1]) for layer in hidden(*pair)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    @final  # type: ignore[misc]
    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs [..., s_0], concatenated where there are several, to [..., s_L]."""
        out: Tensor = self.layers(join(inputs, self.sizes[0], self))
        return out


class MLP(_Perceptron):
    r"""A multilayer perceptron $[..., s_0] \to [..., s_L]$, linear in its last layer.

    Args:
        *sizes: widths of input, hidden layers and output, at least two.
        activation: the class of the non-linearity between layers.

    Raises:
        ValueError: for fewer than two sizes or a size below 1, and for inputs of another width.

    Example:
        >>> import torch
        >>> MLP(784, 200, 200, 100, activation=torch.nn.Tanh)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 100])
    """

    def __init__(self, *sizes: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(sizes, lambda s, t: [nn.Linear(s, t), activation()])


class GatedMLP(_Perceptron):
    r"""A perceptron whose hidden units are gated, $h' = (A h + a) \odot \sigma(B h + b)$.

    The product passes gradients where a saturated unit would not; the last layer is linear.

    Args:
        *sizes: widths of input, hidden layers and output, at least two.

    Raises:
        ValueError: as `MLP`.

    References:
        Dauphin, Fan, Auli, Grangier, 2017. Language Modeling with Gated Convolutional Networks.
        Tomczak, Welling, 2018. VAE with a VampPrior.

    Example:
        >>> import torch
        >>> GatedMLP(784, 300, 300, 2 * 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 80])
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__(sizes, lambda s, t: [nn.Linear(s, 2 * t), nn.GLU(dim=-1)])


class ResidualMLP(_Perceptron):
    r"""A perceptron of residual blocks, $h' = P h + f(P h)$ with two layers in each f.

    P is the identity where a width equals the one before, else a linear map; f normalizes each
    datum alone (layer normalization). The last layer is linear.

    Args:
        *sizes: widths of input, blocks and output, at least two.

    Raises:
        ValueError: as `MLP`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Ba, Kiros, Hinton, 2016. Layer Normalization.

    Example:
        >>> import torch
        >>> ResidualMLP(784, 200, 200, 2 * 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 80])
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__(sizes, _residual)


def _residual(width: int, following: int) -> list[nn.Module]:
    projection = [nn.Linear(width, following)] if width != following else []
    block = nn.Sequential(
        nn.LayerNorm(following),
        nn.ReLU(),
        nn.Linear(following, following),
        nn.ReLU(),
        nn.Linear(following, following),
    )
    return [*projection, Residual(block)]
