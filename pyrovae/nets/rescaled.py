"""Rescale the input of a network from a known range, such as that of 8-bit pixels."""

from __future__ import annotations

from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["Rescaled"]


class Rescaled(Part):
    r"""Apply a network to the first input mapped from [low, high] to [-1, 1].

    It lets an encoder of pixels 0 to 255 train at the usual learning rates, while the likelihood
    scores the pixels themselves.

    Args:
        net: takes the rescaled input and any context.
        low: the value that is mapped to -1.
        high: the value that is mapped to 1.

    Raises:
        ValueError: unless `low` is below `high`.

    Example:
        >>> import torch
        >>> from pyrovae.nets import Rescaled
        >>> Rescaled(torch.nn.Identity())(torch.tensor([[0.0, 127.5, 255.0]]))
        tensor([[-1.,  0.,  1.]])
    """

    def __init__(self, net: nn.Module, *, low: float = 0.0, high: float = 255.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"Rescaled takes low < high; got low={low} and high={high}")
        self.net, self.low, self.high = net, low, high

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output at the rescaled x and the context."""
        out: Tensor = self.net(2 * (x - self.low) / (self.high - self.low) - 1, *context)
        return out
