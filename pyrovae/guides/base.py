"""Base classes of guides: a network, and a posterior parameterized by its output."""

from __future__ import annotations

import abc
from typing import final

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["Guide", "Posterior"]


class Posterior(Part):
    """Parameterize q(z | x) by the output of a network.

    Args:
        net: maps (x, *context) to the parameters, [..., P].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @abc.abstractmethod
    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x), with batch shape [...], given the network's output [..., P]."""

    @final
    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return `distribution(parameters)`, by its name in earlier versions."""
        return self.distribution(parameters)


class Guide(Posterior):
    """Sample the site "z" from the posterior that a subclass returns.

    Args:
        net: maps (x, *context) to the parameters, [..., P].

    Raises:
        ValueError: if x has no axis over data.

    Example:
        >>> import pyro.distributions as dist, torch, pyrovae as pv
        >>> class StudentT(pv.guides.Guide):
        ...     def distribution(self, parameters):
        ...         loc, raw = parameters.chunk(2, dim=-1)
        ...         return dist.StudentT(5.0, loc, pv.nets.positive(raw)).to_event(1)
        >>> StudentT(pv.nets.MLP(64, 2 * 3))(torch.zeros(5, 64)).shape
        torch.Size([5, 3])
    """

    @final  # type: ignore[misc]
    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x)."""
        parameters = self.net(x, *context)
        if parameters.ndim < 2:
            raise ValueError(
                f"a guide takes x [N, ...], one row per datum; got {tuple(x.shape)}, and an "
                f"output {tuple(parameters.shape)} of the network. Give a single datum as x[None]"
            )
        z: Tensor = pyro.sample("z", self.distribution(parameters))
        return z
