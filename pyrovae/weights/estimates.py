r"""Estimates per datum, and the standard errors of their mean over particles and over data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["Z95", "Estimate", "difference", "mean_estimate", "students_factor"]

Z95: Final = 1.96
"""The half-width of a 95% interval of the normal distribution, in standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A value for each datum with its standard error over particles.

    The mean over data has two errors. `error_over_data` is for another test set and other
    particles. `error_over_particles` is for the same data and another seed. The mean plus or
    minus 1.96 errors is a 95% confidence interval. Over particles it takes many data or particles:
    the standard error of one datum's ELBO covers it in 70% of cases with 2 particles, in 88% with
    5, and in 93% with 20.

    Attributes:
        value: [N], in nats.
        standard_error: [N], over particles; NaN if there is only one particle.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import Estimate
        >>> Estimate(torch.tensor([-1.0, -3.0]), torch.tensor([0.1, 0.1]))
        Estimate(mean -2.000 ± 6.483 over data, ± 0.071 over particles, 2 data)
    """

    value: Tensor
    standard_error: Tensor

    @property
    def mean(self) -> float:
        """The mean over data."""
        return self.value.cpu().double().mean().item()

    @property
    def error_over_data(self) -> float:
        """The standard error of the mean over data, times `students_factor`; NaN if N = 1."""
        count = len(self.value)
        if count < 2:
            return math.nan
        spread = self.value.cpu().double().std().item()
        return students_factor(count) * spread / math.sqrt(count)

    @property
    def error_over_particles(self) -> float:
        """The standard error of the mean over particles, for fixed data."""
        return self.standard_error.cpu().double().square().sum().sqrt().item() / len(self.value)

    def __repr__(self) -> str:
        """Return the mean, its errors that are not NaN, and the number of data."""
        errors = {"over data": self.error_over_data, "over particles": self.error_over_particles}
        parts = [f"± {e:.3f} {of}" for of, e in errors.items() if not math.isnan(e)]
        parts.append(f"{len(self.value):,} data")
        middle = " " if len(parts) > 1 else ", "
        return f"Estimate(mean {self.mean:.3f}{middle}{', '.join(parts)})"


def students_factor(count: int) -> float:
    r"""Return the ratio of Student's 97.5% quantile to the normal's, $t_{N-1} / 1.96$.

    It widens the standard error of a mean of N data, because their standard deviation is itself
    an estimate.

    Raises:
        ValueError: if there are fewer than two data.

    Example:
        >>> from pyrovae.weights.bounds import students_factor
        >>> [round(students_factor(data), 2) for data in (2, 5, 50, 10_000)]
        [6.48, 1.42, 1.03, 1.0]
    """
    import scipy.special  # Its import changes the warning filters.

    if count < 2:
        raise ValueError(f"Student's interval takes two data or more; got {count}")
    return float(scipy.special.stdtrit(count - 1, 0.975)) / Z95


def difference(above: Estimate, below: Estimate, *, independent: bool) -> Estimate:
    """Subtract an estimate from another of the same data, datum by datum.

    Args:
        above: the minuend.
        below: the subtrahend.
        independent: whether the two used independent random numbers. Then the standard error is
            the root of the sum of squares. Otherwise, as with a common seed, it is the sum of
            both errors, which is an upper bound.

    Returns:
        The difference of the values [N], with its standard error over particles.

    Raises:
        ValueError: if the two have different numbers of data.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import Estimate, difference
        >>> one = Estimate(torch.zeros(1), torch.tensor([3.0]))
        >>> other = Estimate(torch.ones(1), torch.tensor([4.0]))
        >>> difference(one, other, independent=True).standard_error
        tensor([5.], dtype=torch.float64)
        >>> difference(one, other, independent=False).standard_error
        tensor([7.], dtype=torch.float64)
    """
    if len(above.value) != len(below.value):
        raise ValueError(
            f"a difference is of the same data; got {len(above.value)} and {len(below.value)}"
        )
    a, b = above.standard_error.cpu().double(), below.standard_error.cpu().double()
    error = torch.hypot(a, b) if independent else a + b
    return Estimate(above.value.cpu().double() - below.value.cpu().double(), error)


def mean_estimate(values: Tensor) -> Estimate:
    r"""Return the mean over rows of [K, N] with its standard error $s / \sqrt{K}$.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import mean_estimate
        >>> mean_estimate(torch.tensor([[-1.0], [-3.0]])).standard_error
        tensor([1.])
    """
    spread = values.std(0) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), spread / math.sqrt(len(values)))
