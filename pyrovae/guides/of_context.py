"""A guide of the context instead of the data."""

from __future__ import annotations

from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["OfContext"]


class OfContext(Part):
    r"""Sample the latents given the context alone, $q(z | c)$, whatever x is.

    Where x is to be predicted from the context, the guide must not see it. The first argument of
    the context is the data of the guide, and the others are its context.

    Args:
        guide: any guide, called with `*context`.

    Raises:
        ValueError: if there is no context.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import MeanFieldNormal, OfContext
        >>> from pyrovae.nets import MLP
        >>> guide = OfContext(MeanFieldNormal(MLP(64, 2 * 3)))
        >>> labels, images = torch.zeros(5), torch.zeros(5, 64)
        >>> with pyro.plate("data", 5):
        ...     guide(labels, images).shape
        torch.Size([5, 3])
    """

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | context)."""
        if not context:
            raise ValueError(
                "OfContext samples z given the context, but got x alone: give the data as "
                "(x, context), such as (labels, images)"
            )
        z: Tensor = self.guide(*context)
        return z
