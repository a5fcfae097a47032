"""A posterior on the unit sphere."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import normalize

from pyrovae.distributions import spheres
from pyrovae.guides.base import Guide
from pyrovae.nets import positive

__all__ = ["PowerSpherical"]


class PowerSpherical(Guide):
    r"""The power-spherical posterior $q(z | x) \propto (1 + \mu(x)^\top z)^{\kappa(x)}$.

    z lies on the unit sphere in D dimensions.

    Args:
        net: maps x to D + 1 numbers: a vector that is normalized to mu, then the unconstrained
            concentration kappa (see `nets.positive`).

    Raises:
        ValueError: if the network has fewer than three outputs.

    References:
        De Cao, Aziz, 2020. The Power Spherical distribution.
        Davidson, Falorsi, De Cao, Kipf, Tomczak, 2018. Hyperspherical Variational Auto-Encoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import PowerSpherical
        >>> from pyrovae.nets import MLP
        >>> guide = PowerSpherical(MLP(784, 400, 20 + 1))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.rand(3, 784)).shape
        torch.Size([3, 20])
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the distribution with directions and concentrations [..., D + 1]."""
        if parameters.shape[-1] < 3:
            raise ValueError(
                "PowerSpherical expected a network with D + 1 outputs, D >= 2 the number of "
                f"latent dimensions; got {parameters.shape[-1]}"
            )
        direction, raw = parameters[..., :-1], parameters[..., -1]
        return spheres.PowerSpherical(normalize(direction, dim=-1), positive(raw))
