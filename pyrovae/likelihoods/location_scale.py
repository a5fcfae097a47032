"""Likelihoods of real data: a location, and a scale around it."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.likelihoods.base import NetworkLikelihood
from pyrovae.nets import positive


class _LocationScale(NetworkLikelihood):
    """A location from the network, and a scale: fixed, learned, or from the network too."""

    domain = constraints.real

    def __init__(
        self, net: nn.Module, *, scale: float | Literal["learned", "network"] = "learned"
    ) -> None:
        super().__init__(net)
        if isinstance(scale, str) and scale not in ("learned", "network"):
            raise ValueError(f"scale is a positive number, 'learned' or 'network'; got '{scale}'")
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise ValueError(f"a fixed scale is positive and finite; got {scale}")
        self.scale = scale
        if scale == "learned":
            self.raw_scale = nn.Parameter(torch.tensor(0.5413))
        elif not isinstance(scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the mean, and zeros for the scales where the network gives them."""
        mean = x.mean(0)
        return torch.cat([mean, torch.zeros_like(mean)]) if self.scale == "network" else mean

    def location_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Split the network's output where it gives both, else add the one scale."""
        if self.scale == "network":
            if parameters.shape[-1] % 2:
                raise ValueError(
                    f"{type(self).__name__} expected a network with an even number of outputs, a "
                    f"location and a scale for each x_i; got {parameters.shape[-1]}"
                )
            loc, raw = parameters.chunk(2, dim=-1)
            return loc, positive(raw)
        if self.scale == "learned":
            return parameters, positive(self.raw_scale)
        return parameters, self.get_buffer("fixed_scale")


class Normal(_LocationScale):
    r"""Real data, $p(x | z) = N(x; m(z), s^2 I)$.

    Args:
        net: maps z to means, or to means and then unconstrained scales with `scale="network"`.
        scale: a fixed positive number; "learned", one scalar for all of x, starting at 1; or
            "network", one for each x_i as a function of z.

    Raises:
        ValueError: if `scale` is none of these.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = Normal(MLP(20, 400, 2 * 64), scale="network")
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with the network's means."""
        return dist.Normal(*self.location_and_scale(parameters))


class Laplace(_LocationScale):
    r"""Real data with heavier tails, $p(x | z) = \prod_i \exp(-|x_i - m_i(z)| / s) / 2s$.

    Args:
        net: maps z to medians, or to medians and unconstrained scales with `scale="network"`.
        scale: as in `Normal`.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = Laplace(MLP(20, 400, 64), scale=0.1)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Laplace distribution with the network's medians."""
        return dist.Laplace(*self.location_and_scale(parameters))
