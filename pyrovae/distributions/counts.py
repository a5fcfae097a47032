"""Count distributions parameterized by log-means, which stay finite over the range of float32."""

from __future__ import annotations

import math
from typing import Any, Final, final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

__all__ = ["LogPoisson", "OverdispersedPoisson", "TotalsMultinomial", "within"]

STIRLING_FROM: Final = 30.0
"""From here on, the error of three terms of Stirling's series is below 1e-13."""


@final
class LogPoisson(dist.TorchDistribution):
    r"""The Poisson distribution with log-mean h, $\log p(x) = x h - e^h - \log x!$.

    `torch.distributions.Poisson` takes the logarithm of the mean: when the mean underflows or
    overflows, the result is NaN or its derivative infinite. Log-means above 30 (a mean of 1e13)
    are clamped to 30.

    Args:
        log_mean: h, any shape.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import LogPoisson
        >>> LogPoisson(torch.tensor([-100.0, 0.0])).log_prob(torch.tensor([1.0, 1.0]))
        tensor([-100.,   -1.])
    """

    arg_constraints = {"log_mean": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_mean = within(log_mean, -math.inf, HIGHEST_LOG_MEAN)
        super().__init__(log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogPoisson:
        """Return the distribution with a larger batch shape."""
        return LogPoisson(self.log_mean.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.log_mean - self.log_mean.exp() - torch.lgamma(value + 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample counts, as floats."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean, equal to the variance."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """The variance, equal to the mean."""
        return self.mean


@final
class OverdispersedPoisson(dist.TorchDistribution):
    r"""The negative binomial distribution with mean $\mu$ and concentration r.

    $$ x \sim \mathrm{Poisson}(\mu g), \quad g \sim \mathrm{Gamma}(r, r) $$

    $$ \log p(x) = \log \frac{\Gamma(x + r)}{\Gamma(r)\, x!\, r^x} + x \log \mu
       - (x + r) \log(1 + \mu / r) $$

    `torch.distributions.NegativeBinomial` subtracts log-gamma functions of r, which cancel in
    float32 for r > 1e5.

    Args:
        log_mean: $\log \mu$, any shape.
        log_concentration: $\log r$, the same shape.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.distributions import OverdispersedPoisson
        >>> x = torch.tensor(3.0)
        >>> nearly_poisson = OverdispersedPoisson(torch.tensor(0.0), torch.tensor(20.0))
        >>> nearly_poisson.log_prob(x), dist.Poisson(1.0).log_prob(x)
        (tensor(-2.7918), tensor(-2.7918))
    """

    arg_constraints = {"log_mean": constraints.real, "log_concentration": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(
        self, log_mean: Tensor, log_concentration: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.log_mean = log_mean
        self.log_concentration = within(log_concentration, *LOG_CONCENTRATIONS)
        super().__init__(log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OverdispersedPoisson:
        """Return the distribution with a larger batch shape."""
        log_mean = self.log_mean.expand(batch_shape)
        log_concentration = self.log_concentration.expand(batch_shape)
        return OverdispersedPoisson(log_mean, log_concentration, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        r = self.log_concentration.exp()
        log_share = logsigmoid(self.log_concentration - self.log_mean)  # of r in r + mu
        ways = _log_rising(r, value) - torch.lgamma(value + 1)
        return ways + value * self.log_mean + (value + r) * log_share

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample the rates, then the counts, as floats."""
        with torch.no_grad():
            r = self.log_concentration.exp()
            gamma = dist.Gamma(r, r).sample(torch.Size(sample_shape))
            return torch.poisson(gamma * self.mean)

    @property
    def mean(self) -> Tensor:
        r"""The mean, $\mu$."""
        return self.log_mean.clamp(max=LARGEST_LOG).exp()

    @property
    def variance(self) -> Tensor:
        r"""The variance, $\mu + \mu^2 / r$."""
        return self.mean + (2 * self.log_mean - self.log_concentration).exp()


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    r"""Return $\log \frac{\Gamma(r + x)}{\Gamma(r)\, r^x}$, which tends to 0 as r grows."""
    small = r.clamp(max=STIRLING_FROM)
    direct = torch.lgamma(small + x) - torch.lgamma(small) - x * small.log()
    large = r.clamp(min=STIRLING_FROM)
    series = _stirling(large + x) - _stirling(large)
    asymptotic = (large + x - 0.5) * torch.log1p(x / large) - x + series
    return torch.where(r < STIRLING_FROM, direct, asymptotic)


def _stirling(y: Tensor) -> Tensor:
    """Return the remainder of Stirling's formula for the log-gamma function."""
    inverse = 1 / y
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


@final
class TotalsMultinomial(dist.TorchDistribution):
    r"""A multinomial distribution with its own total for each row.

    $$ \log p(x) = \log \frac{n!}{\prod_i x_i!} + \sum_i x_i \log p_i $$

    `torch.distributions.Multinomial` has one total for the whole batch.

    Args:
        logits: unnormalized log-probabilities [..., D].
        total: the totals n [...]. With None, `log_prob` uses the sum of each value, and `sample`
            and `mean` raise an error.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import TotalsMultinomial
        >>> TotalsMultinomial(torch.zeros(2, 4), torch.tensor([3.0, 10.0])).sample().sum(-1)
        tensor([ 3., 10.])
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self, logits: Tensor, total: Tensor | None, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.total = logits, total
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TotalsMultinomial:
        """Return the distribution with a larger batch shape."""
        logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        total = None if self.total is None else self.total.expand(batch_shape)
        return TotalsMultinomial(logits, total, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts [..., D] given their total, in nats.

        Raises:
            ValueError: if the counts do not sum to the given total.
        """
        own = value.sum(-1)
        if self._validate_args:
            self._validate_sample(value)
            self._check_total(own)
        ways = torch.lgamma(own + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.logits.log_softmax(-1)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample one category after the other, each from a binomial over the remaining items.

        Raises:
            ValueError: if there is no total.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            probs = self.logits.softmax(-1).expand(shape)
            left = self._known_total().expand(shape[:-1]).to(probs.dtype)
            rest = probs.flip(-1).cumsum(-1).flip(-1)
            share = torch.where(rest > 0, probs / rest, 1.0).clamp(max=1.0)
            counts = []
            for p in share.unbind(-1):
                counts.append(torch.binomial(left, p))
                left = left - counts[-1]
            return torch.stack(counts, -1)

    @property
    def mean(self) -> Tensor:
        """The mean, the total times the probabilities. It raises a ValueError without a total."""
        return self._known_total().unsqueeze(-1) * self.logits.softmax(-1)

    def _known_total(self) -> Tensor:
        if self.total is None:
            raise ValueError(
                "a sample or mean of a multinomial needs the total of each datum: construct the "
                "likelihood with library=True and pass the totals, such as x.sum(1), as the last "
                "context"
            )
        return self.total

    def _check_total(self, own: Tensor) -> None:
        if self.total is None:
            return
        off = (own != self.total).broadcast_to(torch.broadcast_shapes(own.shape, self.batch_shape))
        if off.any():
            met, wanted = (t.expand(off.shape)[off][0].item() for t in (own, self.total))
            raise ValueError(
                f"the counts of a datum sum to {met:g}, but its total is {wanted:g}: pass "
                "x.sum(1) as the last context"
            )


HIGHEST_LOG_MEAN: Final = 30.0
"""Poisson log-means are clamped here (a mean of 1e13): above it, squared gradients overflow."""


LARGEST_LOG: Final = 80.0
"""The log of the largest mean (5e34) that is sampled or returned; float32 overflows at 88."""


LOG_CONCENTRATIONS: Final = (-30.0, 30.0)
"""The range in which a concentration and its log-gamma are finite in float32."""


def within(h: Tensor, low: float, high: float) -> Tensor:
    """Clamp values to a range, with the gradient of the identity (straight-through).

    Parameters outside the range keep a gradient, so training can return them to it.
    """
    return h.clamp(low, high).detach() + (h - h.detach())
