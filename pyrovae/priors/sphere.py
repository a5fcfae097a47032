"""The uniform prior on a hypersphere."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions.spheres import SphericalUniform
from pyrovae.priors.base import Prior

__all__ = ["UniformSphere"]


class UniformSphere(Prior):
    r"""Sample a site "z" uniformly from the unit sphere $S^{D-1}$.

    The matching guide is `guides.PowerSpherical`; their KL divergence has a closed form.

    Args:
        latents: the number D of coordinates of z, at least 2. The sphere has D - 1 dimensions.

    Raises:
        ValueError: if `latents` is below 2.

    References:
        Davidson, Falorsi, De Cao, Kipf, Tomczak, 2018. Hyperspherical Variational Auto-Encoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import UniformSphere
        >>> with pyro.plate("data", 3):
        ...     z = UniformSphere(4)()
        >>> z.norm(dim=-1).round(decimals=4)
        tensor([1., 1., 1.])
    """

    origin: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        if latents < 2:
            raise ValueError(f"UniformSphere needs at least two latent dimensions; got {latents}")
        self.register_buffer("origin", torch.zeros(latents))

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the uniform distribution; the context is ignored."""
        return SphericalUniform(self.origin)
