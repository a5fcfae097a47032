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
    """Hidden layers, constructed by a function of their widths, and a linear output layer."""

    def __init__(
        self, sizes: tuple[int, ...], hidden: Callable[[int, int], list[nn.Module]]
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs at least two widths, each 1 or more, such as {name}(64, 10, 2); "
                f"got {sizes}"
            )
        self.sizes = tuple(sizes)
        layers = [layer for pair in pairwise(sizes[:-1]) for layer in hidden(*pair)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    @final  # type: ignore[misc]
    def forward(self, *inputs: Tensor) -> Tensor:
        """Map the concatenation of the inputs, [..., s_0], to [..., s_L]."""
        out: Tensor = self.layers(join(inputs, self.sizes[0], self))
        return out


class MLP(_Perceptron):
    r"""A multilayer perceptron $[..., s_0] \to [..., s_L]$ with a linear output layer.

    Args:
        *sizes: the widths of the input, the hidden layers and the output, at least two.
        activation: the class of the nonlinearity after each hidden layer.

    Raises:
        ValueError: if there are fewer than two sizes, a size is below 1, or an input has the
            wrong width.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> MLP(784, 200, 200, 100, activation=torch.nn.Tanh)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 100])
    """

    def __init__(self, *sizes: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(sizes, lambda s, t: [nn.Linear(s, t), activation()])


class GatedMLP(_Perceptron):
    r"""A perceptron with gated linear units, $h' = (A h + a) \odot \sigma(B h + b)$.

    The linear path passes gradients that a saturating nonlinearity would block. The output layer
    is linear.

    Args:
        *sizes: the widths of the input, the hidden layers and the output, at least two.

    Raises:
        ValueError: as `MLP`.

    References:
        Dauphin, Fan, Auli, Grangier, 2017. Language Modeling with Gated Convolutional Networks.
        Tomczak, Welling, 2018. VAE with a VampPrior.

    Example:
        >>> import torch
        >>> from pyrovae.nets import GatedMLP
        >>> GatedMLP(784, 300, 300, 2 * 40)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 80])
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__(sizes, lambda s, t: [nn.Linear(s, 2 * t), nn.GLU(dim=-1)])


class ResidualMLP(_Perceptron):
    r"""A perceptron of residual blocks, $h' = P h + f(P h)$.

    P is the identity if the width does not change, else a linear map. f is a layer normalization
    and two linear layers, each after a ReLU. The output layer is linear.

    Args:
        *sizes: the widths of the input, the blocks and the output, at least two.

    Raises:
        ValueError: as `MLP`.

    References:
        He, Zhang, Ren, Sun, 2016. Identity Mappings in Deep Residual Networks.
        Ba, Kiros, Hinton, 2016. Layer Normalization.

    Example:
        >>> import torch
        >>> from pyrovae.nets import ResidualMLP
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
