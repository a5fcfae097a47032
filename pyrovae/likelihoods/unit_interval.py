"""Likelihoods of intensities in [0, 1]."""

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
"""The initial mean of a pixel that is 0 in all data, whose optimal logit is minus infinity."""


class ContinuousBernoulli(NetworkLikelihood):
    r"""Intensities in [0, 1], $p(x | z) = \prod_i C(h_i(z)) e^{h_i(z) x_i}$, C the normalizer.

    A Bernoulli log-likelihood of intensities omits C. It is not a log-density, so the ELBO is not
    a bound on log p(x).

    Args:
        net: maps z to logits h. The mean of x_i increases with h_i, but is not its sigmoid.

    References:
        Loaiza-Ganem, Cunningham, 2019. The Continuous Bernoulli: Fixing a Pervasive Error in
        Variational Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import ContinuousBernoulli
        >>> likelihood = ContinuousBernoulli(MLP(20, 400, 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = constraints.unit_interval

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the continuous Bernoulli distribution with the given logits."""
        return continuous_bernoulli.ContinuousBernoulli(parameters)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean, clamped to [0.01, 0.99], by bisection."""
        mean = x.mean(0).clamp(DARKEST, 1 - DARKEST).double()
        high = torch.full_like(mean, 2 / DARKEST)
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            above = continuous_bernoulli.ContinuousBernoulli(middle).mean > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return low.to(x.dtype)


class Beta(NetworkLikelihood):
    r"""Intensities in (0, 1), $p(x | z) = \prod_i \mathrm{Beta}(x_i; a_i, b_i)$.

    $$ a_i = c_i(z)\, \sigma(h_i(z)), \qquad b_i = c_i(z)\, \sigma(-h_i(z)) $$

    The density is zero or infinite at 0 and 1, so such data are refused. Shrink them, as in
    `0.5 + 0.99 * (x - 0.5)`, or use `ContinuousBernoulli`.

    Args:
        net: maps z to D logits h of the means, then D unconstrained concentrations c (see
            `nets.positive`).

    References:
        Ferrari, Cribari-Neto, 2004. Beta Regression for Modelling Rates and Proportions.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Beta
        >>> likelihood = Beta(MLP(20, 400, 2 * 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = open_unit_interval

    @property
    def outputs(self) -> int:
        """2, a mean and a concentration."""
        return 2

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the beta distribution with the given mean logits and concentrations."""
        logits, raw = blocks(parameters, 2, self).unbind(-2)
        concentration = positive(raw)
        # The floor keeps digamma finite where the sigmoid underflows.
        a, b = (concentration * torch.sigmoid(h) + SMALLEST_SCALE for h in (logits, -logits))
        return dist.Beta(a, b)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean, followed by zeros for the concentrations."""
        logits = x.mean(0).logit()
        return torch.cat([logits, torch.zeros_like(logits)])
