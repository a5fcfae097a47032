"""The base class of priors with one latent site "z"."""

from __future__ import annotations

import abc
from typing import final

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyrovae.parts import Part

__all__ = ["Prior", "check_latents"]


class Prior(Part):
    """Sample the site "z" from the distribution that a subclass returns.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrovae as pv
        >>> class Logistic(pv.priors.Prior):
        ...     def distribution(self, *context):
        ...         return dist.Logistic(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> with pyro.plate("data", 5):
        ...     Logistic()().shape
        torch.Size([5, 3])
    """

    @abc.abstractmethod
    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return p(z | context), with batch shape [] or that of the context."""

    @final  # type: ignore[misc]
    def forward(self, *context: Tensor) -> Tensor:
        """Sample z of shape [..., D]."""
        z: Tensor = pyro.sample("z", self.distribution(*context))
        return z


def check_latents(owner: Part, latents: int) -> None:
    """Check the number of latent dimensions of a prior.

    Raises:
        ValueError: if it is below 1.
    """
    if latents < 1:
        name = type(owner).__name__
        raise ValueError(f"{name} needs at least one latent dimension; got {latents}")
