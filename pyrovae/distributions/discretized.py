"""Distributions over the levels 0, ..., L - 1 of a pixel, with values as floats."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = ["DiscretizedLogistic", "Levels"]


@final
class Levels(dist.TorchDistribution):
    r"""A categorical distribution over the levels 0, ..., L - 1, with float values and a mean.

    $$ P(x = l) = \mathrm{softmax}(h)_l $$

    `torch.distributions.Categorical` samples integers, and its mean is NaN.

    Args:
        logits: h, [..., L].

    Example:
        >>> import torch
        >>> from pyrovae.distributions import Levels
        >>> Levels(torch.zeros(5)).mean
        tensor(2.)
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.classes = dist.Categorical(logits=logits, validate_args=validate_args)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers from 0 to L - 1."""
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Levels:
        """Return the distribution with a larger batch shape."""
        logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        return Levels(logits, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of levels, float or integer, in nats."""
        log_prob: Tensor = self.classes.log_prob(value)
        return log_prob

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample levels, as floats."""
        drawn: Tensor = self.classes.sample(torch.Size(sample_shape))
        return drawn.to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        levels = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return (self.logits.softmax(-1) * levels).sum(-1)


@final
class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic variable rounded to the nearest of the levels 0, ..., L - 1.

    With $a = (x - 1/2 - m) / s$ and $b = (x + 1/2 - m) / s$,

    $$ P(x) = \sigma(b) - \sigma(a) = \sigma(b)\, \sigma(-a)\, (1 - e^{a - b}). $$

    The levels 0 and L - 1 include the tails. The product form keeps the log-probability accurate
    far from m, where the difference underflows.

    Args:
        loc: m, in levels, any shape.
        scale: s > 0, in levels, the shape of `loc`.
        levels: L.

    References:
        Salimans, Karpathy, Chen, Kingma, 2017. PixelCNN++.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import DiscretizedLogistic
        >>> narrow = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(0.1), 256)
        >>> narrow.log_prob(torch.tensor([0.0, 200.0]))
        tensor([-6.7153e-03, -1.9950e+03])
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: int, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.levels = loc, scale, levels
        super().__init__(loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers from 0 to L - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """Return the distribution with a larger batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of levels, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        below = (value - 0.5 - self.loc) / self.scale
        above = (value + 0.5 - self.loc) / self.scale
        first, last = value <= 0, value >= self.levels - 1
        within = torch.log(-torch.expm1(-1 / self.scale))
        return (
            torch.where(last, 0.0, nn.functional.logsigmoid(above))
            + torch.where(first, 0.0, nn.functional.logsigmoid(-below))
            + torch.where(first | last, 0.0, within)
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample from the logistic distribution and round to the nearest level."""
        with torch.no_grad():
            scale = self.scale.expand(self._extended_shape(sample_shape))
            noise = torch.rand_like(scale).clamp_min(torch.finfo(scale.dtype).tiny).logit()
            return (self.loc + scale * noise).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The exact mean level, the sum of P(x > k) over k."""
        mean = torch.zeros_like(self.loc)
        for k in range(self.levels - 1):
            mean = mean + torch.sigmoid((self.loc - k - 0.5) / self.scale)
        return mean
