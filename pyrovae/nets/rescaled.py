"""A network whose input lies in a range known beforehand, such as that of stored pixels."""

from __future__ import annotations

from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["Rescaled"]


class Rescaled(Part):
    r"""Map the first input from [low, high] to [-1, 1], then ask a network.

    An encoder of pixels 0 to 255 learns at the usual rates so; the likelihood scores the pixels
    themselves.

    Args:
        net: takes the rescaled input and any context.
        low: what becomes -1.
        high: what becomes 1.

    Raises:
        ValueError: if `low` is not below `high`.

    Example:
        >>> import torch
        >>> Rescaled(torch.nn.Identity())(torch.tensor([[0.0, 127.5, 255.0]]))
        tensor([[-1.,  0.,  1.]])
    """

    def __init__(self, net: nn.Module, *, low: float = 0.0, high: float = 255.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"Rescaled takes low < high; got low={low} and high={high}")
        self.net, self.low, self.high = net, low, high

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Rescale x and pass it on with the context."""
        out: Tensor = self.net(2 * (x - self.low) / (self.high - self.low) - 1, *context)
        return out
