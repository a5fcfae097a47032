"""A likelihood of binary data."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyrovae.likelihoods.base import NetworkLikelihood

__all__ = ["Bernoulli"]


class Bernoulli(NetworkLikelihood):
    r"""Binary data, $p(x | z) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(h_i(z)))$.

    Args:
        net: maps z [..., D] to logits h.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Bernoulli
        >>> likelihood = Bernoulli(MLP(20, 400, 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = constraints.boolean

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Bernoulli distribution with the given logits."""
        return dist.Bernoulli(logits=parameters)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean, with a pseudocount of 1/2 to keep them finite."""
        return ((x.sum(0) + 0.5) / (len(x) + 1)).logit()
