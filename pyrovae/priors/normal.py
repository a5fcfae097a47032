"""A normal prior with learned parameters."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.nets import positive, unconstrained
from pyrovae.priors.base import Prior, check_latents

__all__ = ["Normal"]


class Normal(Prior):
    r"""Sample a site "z" from a learned diagonal normal, $p(z) = N(m, \mathrm{diag}\, s^2)$.

    It is initialized to the standard normal.

    Args:
        latents: the dimension D of z.

    Raises:
        ValueError: if `latents` is below 1.

    Example:
        >>> from pyrovae.priors import Normal
        >>> prior = Normal(2)
        >>> [name for name, _ in prior.named_parameters()]
        ['loc', 'raw_scale']
        >>> prior.distribution().variance.detach()
        tensor([1., 1.])
    """

    def __init__(self, latents: int) -> None:
        super().__init__()
        check_latents(self, latents)
        self.loc = nn.Parameter(torch.zeros(latents))
        self.raw_scale = nn.Parameter(unconstrained(torch.ones(latents)))

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the learned normal; the context is ignored."""
        return dist.Normal(self.loc, positive(self.raw_scale)).to_event(1)
