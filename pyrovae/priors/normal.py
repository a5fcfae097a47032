"""Normal priors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.parts import Part


class StandardNormal(Part):
    r"""Sample a site "z" from the standard normal, $p(z) = N(0, I_D)$.

    Args:
        latents: the dimension D of z.

    Raises:
        ValueError: if `latents` is below 1.

    Example:
        >>> import pyro, torch
        >>> with pyro.plate("data", 3):
        ...     StandardNormal(2)().shape
        torch.Size([3, 2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        if latents < 1:
            raise ValueError(f"StandardNormal needs at least one latent dimension; got {latents}")
        self.register_buffer("loc", torch.zeros(latents))
        self.register_buffer("scale", torch.ones(latents))

    def forward(self, *context: Tensor) -> Tensor:
        """Sample z of shape [..., D]; the context does not matter."""
        z: Tensor = pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))
        return z
