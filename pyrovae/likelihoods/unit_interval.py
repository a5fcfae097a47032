"""Likelihoods of intensities, numbers between 0 and 1."""

from __future__ import annotations

from typing import Final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.domains import open_unit_interval
from pyrovae.distributions import continuous_bernoulli
from pyrovae.likelihoods.base import NetworkLikelihood, blocks
from pyrovae.nets import SMALLEST_SCALE, positive

__all__ = ["Beta", "ContinuousBernoulli"]

DARKEST: Final = 0.01
"""The mean at which a pixel starts that is always 0: its best logit is minus infinity."""


class ContinuousBernoulli(NetworkLikelihood):
    r"""Intensities in [0, 1], $p(x | z) = \prod_i C(h_i) e^{h_i(z) x_i}$ with $C$ its normalizer.

    What a Bernoulli likelihood of gray pixels lacks is $C$, and without it there is no bound.

    Args:
        net: maps z to logits h; the mean of x_i rises with h_i, but is not its sigmoid.

    References:
        Loaiza-Ganem, Cunningham, 2019. The Continuous Bernoulli: Fixing a Pervasive Error in
        Variational Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = ContinuousBernoulli(MLP(20, 400, 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = constraints.unit_interval

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the continuous Bernoulli of the given logits."""
        return continuous_bernoulli.ContinuousBernoulli(parameters)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean, found by bisection; it is kept within [0.01, 0.99]."""
        mean = x.mean(0).clamp(DARKEST, 1 - DARKEST).double()
        high = torch.full_like(mean, 2 / DARKEST)
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            above = continuous_bernoulli.ContinuousBernoulli(middle).mean > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return low.to(x.dtype)


class Beta(NetworkLikelihood):
    r"""Intensities strictly between 0 and 1, $p(x | z) = \prod_i \mathrm{Beta}(x_i; a_i, b_i)$.

    The network gives mean and concentration, $a = c\, \sigma(h)$ and $b = c\, \sigma(-h)$.

    At 0 and 1 the density is zero or infinite, so data there are refused. Shrink them, as in
    `0.5 + 0.99 * (x - 0.5)`, or take `ContinuousBernoulli`.

    Args:
        net: maps z to logits h of the means, then unconstrained concentrations c (see
            `nets.positive`), one of each for each x_i.

    References:
        Ferrari, Cribari-Neto, 2004. Beta Regression for Modelling Rates and Proportions.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = Beta(MLP(20, 400, 2 * 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = open_unit_interval

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the beta distribution of logits of means, and concentrations."""
        logits, raw = blocks(parameters, 2, self).unbind(-2)
        concentration = positive(raw)
        # The floor keeps digamma finite where the sigmoid underflows.
        a, b = (concentration * torch.sigmoid(h) + SMALLEST_SCALE for h in (logits, -logits))
        return dist.Beta(a, b)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean, and zeros for the concentrations."""
        logits = x.mean(0).logit()
        return torch.cat([logits, torch.zeros_like(logits)])
