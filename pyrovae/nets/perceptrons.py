"""Perceptrons."""

from __future__ import annotations

from torch import Tensor, nn

from pyrovae.nets.heads import join
from pyrovae.parts import Part


class MLP(Part):
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
