"""What the guides with one site "z" share: a network, a posterior made of its output."""

from __future__ import annotations

import abc
from typing import final

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["Guide", "Posterior"]


class Posterior(Part):
    """Make q(z | x) of a network's output.

    Args:
        net: maps (x, *context) to the parameters, [..., P].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @abc.abstractmethod
    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) with batch shape [...] from the network's output [..., P]."""


class Guide(Posterior):
    """Sample the site "z" from the distribution that a subclass makes of the network's output.

    Args:
        net: maps (x, *context) to the parameters, [..., P].
    """

    @final  # type: ignore[misc]
    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x)."""
        parameters = self.net(x, *context)
        if parameters.ndim < 2:
            raise ValueError(
                f"a guide takes x [N, ...], a row for each datum; got {tuple(x.shape)}, of which "
                f"the network made {tuple(parameters.shape)}: a batch of one is x[None]"
            )
        z: Tensor = pyro.sample("z", self.posterior(parameters))
        return z
