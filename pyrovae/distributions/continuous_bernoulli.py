"""The continuous Bernoulli distribution on [0, 1] (Loaiza-Ganem and Cunningham, 2019)."""

from __future__ import annotations

from typing import Any, Final, final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["ContinuousBernoulli"]

SERIES_BELOW: Final = 0.25
"""Below this |t| the closed forms of log(sinh t / t) and its derivative lose digits to
cancellation; five terms of the series are exact there."""


@final
class ContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli distribution, $p(x) \propto e^{h x}$ on [0, 1].

    $$ \log p(x) = h (x - \tfrac12) - \log \frac{\sinh(h / 2)}{h / 2} $$

    `torch.distributions.ContinuousBernoulli` computes its normalizer from the probability, which
    float32 rounds to 1 for |h| > 16: at h = 50 its density integrates to 0.32.

    Args:
        logits: h, any shape.

    References:
        Loaiza-Ganem, Cunningham, 2019. The Continuous Bernoulli.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import ContinuousBernoulli
        >>> tilted = ContinuousBernoulli(torch.tensor([0.0, 50.0]))
        >>> tilted.mean, tilted.log_prob(torch.tensor(1.0))
        (tensor([0.5000, 0.9800]), tensor([0.0000, 3.9120]))
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        """Return the distribution with a larger batch shape."""
        logits = self.logits.expand(batch_shape)
        return ContinuousBernoulli(logits, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - _log_sinhc(self.logits / 2)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample by inverting the cumulative distribution function."""
        with torch.no_grad():
            logits = self.logits.expand(self._extended_shape(sample_shape))
            steep = logits.abs().clamp_min(1e-6)
            below = -torch.log1p(torch.rand_like(steep) * torch.expm1(-steep)) / steep
            below = below.clamp(0, 1)
            return torch.where(logits > 0, 1 - below, below)

    @property
    def mean(self) -> Tensor:
        """The mean, 1/2 at h = 0."""
        return 0.5 + 0.5 * _langevin(self.logits / 2)


def _log_sinhc(t: Tensor) -> Tensor:
    """Return log(sinh(t) / t)."""
    near, t = t.abs() < SERIES_BELOW, t.abs()
    far = torch.where(near, 1.0, t)
    closed = far + torch.log(-torch.expm1(-2 * far)) - torch.log(2 * far)
    s = torch.where(near, t, 0.0).square()
    series = s / 6 - s**2 / 180 + s**3 / 2835 - s**4 / 37800 + s**5 / 467775
    return torch.where(near, series, closed)


def _langevin(t: Tensor) -> Tensor:
    """Return coth(t) - 1 / t, the derivative of log(sinh(t) / t)."""
    near = t.abs() < SERIES_BELOW
    far = torch.where(near, 1.0, t)
    closed = 1 / torch.tanh(far) - 1 / far
    t = torch.where(near, t, 0.0)
    s = t.square()
    series = t * (1 / 3 - s / 45 + 2 * s**2 / 945 - s**3 / 4725 + 2 * s**4 / 93555)
    return torch.where(near, series, closed)
