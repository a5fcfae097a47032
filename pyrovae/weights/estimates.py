"""Means over data with their standard errors over particles and over data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["Z95", "Estimate", "difference", "mean_estimate", "students_factor"]

Z95: Final = 1.96
"""How many standard errors to either side of a mean hold 95% of a normal."""


@dataclass(frozen=True)
class Estimate:
    """A number for each datum and the standard error that the particles leave on it.

    The mean over data carries two errors. `error_over_data` tells how another test set (with
    other particles) would differ; `error_over_particles` how another seed on these data would.
    Of both, 1.96 to either side of the mean make an interval of 95%.

    Attributes:
        value: [N], in nats.
        standard_error: [N], over particles; NaN where one particle cannot tell.

    Example:
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
        """The error of the mean as a mean over the population of data (NaN at N = 1).

        The standard error, widened by `students_factor`.
        """
        count = len(self.value)
        if count < 2:
            return math.nan
        spread = self.value.cpu().double().std().item()
        return students_factor(count) * spread / math.sqrt(count)

    @property
    def error_over_particles(self) -> float:
        """The standard error of the mean given these data."""
        return self.standard_error.cpu().double().square().sum().sqrt().item() / len(self.value)

    def __repr__(self) -> str:
        """Return the mean, what is known of its errors, and the number of data, in one line."""
        errors = {"over data": self.error_over_data, "over particles": self.error_over_particles}
        parts = [f"± {e:.3f} {of}" for of, e in errors.items() if not math.isnan(e)]
        parts.append(f"{len(self.value):,} data")
        middle = " " if len(parts) > 1 else ", "
        return f"Estimate(mean {self.mean:.3f}{middle}{', '.join(parts)})"


def students_factor(count: int) -> float:
    r"""Return how much wider Student's interval of 95% is than the normal's, $t_{N-1} / 1.96$.

    The spread of few data is itself uncertain, and often too small.

    Raises:
        ValueError: for fewer than two data, which have no spread.

    Example:
        >>> [round(students_factor(data), 2) for data in (2, 5, 50, 10_000)]
        [6.48, 1.42, 1.03, 1.0]
    """
    import scipy.special  # changes the filters of warnings, as importing this library must not

    if count < 2:
        raise ValueError(f"Student's interval takes two data or more; got {count}")
    return float(scipy.special.stdtrit(count - 1, 0.975)) / Z95


def difference(above: Estimate, below: Estimate, *, independent: bool) -> Estimate:
    """Subtract an estimate from another of the same data, datum by datum.

    Args:
        above: what is subtracted from.
        below: what is subtracted.
        independent: whether the two had random numbers of their own. If not, as where both were
            drawn at one seed, their errors over particles may go together, and are added: the
            true one cannot exceed that.

    Raises:
        ValueError: if they are of different numbers of data.

    Example:
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
    r"""Return the mean over rows of [K, N] and its standard error $s / \sqrt{K}$."""
    spread = values.std(0) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), spread / math.sqrt(len(values)))
