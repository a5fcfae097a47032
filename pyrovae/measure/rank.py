r"""Rank several models by a bound, with paired differences from the best.

    d_n = a_n - best_n,     counts if |mean d| > t std(d) / sqrt(N)

with t Student's quantile of N - 1 degrees of freedom at 1 - 0.05 / (M (M - 1)). The best of M
models is chosen by the same data that they are compared on. Intervals that hold for all
M (M - 1) / 2 pairs at once hold for the best, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from scipy.special import ndtri, stdtrit
from torch import Tensor

from pyrovae.measure.compare import Comparison, compare, reservations
from pyrovae.measure.findings import Finding, Quantity
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding, estimates_of
from pyrovae.weights.bounds import Estimate, students_factor

__all__ = ["Ranking", "rank"]


@final
@dataclass(frozen=True, repr=False)
class Ranking(Finding):
    """The result of `rank`, in nats.

    Attributes:
        bound: the bound that models are ranked by: the tightest that all reports have.
        bounds: its values by the names of the models, the best first.
        behind: the comparison of each other model with the best, in the same order.
    """

    bound: str
    bounds: dict[str, Estimate]
    behind: dict[str, Comparison]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, the best first."""
        return tuple(self.bounds)

    @property
    def errors(self) -> float:
        """The number of errors that counts as a difference, at level 5% over all pairs.

        Errors over data are widened for few data at the level of a single pair (see
        `bounds.students_factor`). Student's quantile grows faster than that at the smaller levels
        of several pairs.
        """
        models, data = len(self.bounds), len(self.bounds[self.names[0]].value)
        share = 1 - 0.05 / (models * (models - 1))
        if data < 2:
            return float(ndtri(share))
        return float(stdtrit(data - 1, share)) / students_factor(data)

    @property
    def differences(self) -> dict[str, Estimate]:
        """The difference of each other model from the best, by its name; none is above 0."""
        return {name: pair.differences[self.bound] for name, pair in self.behind.items()}

    @property
    def apart(self) -> tuple[str, ...]:
        """The names of the models that are significantly worse than the best."""
        found = self.differences.items()
        return tuple(name for name, d in found if _error(d) * self.errors < -d.mean)

    @property
    def title(self) -> str:
        """The bound, the number of data, and the unit."""
        data = len(self.bounds[self.names[0]].value)
        return f"{self.bound}, {len(self.bounds)} models, {data:,} data, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether the ranking is incomplete: always False."""
        return False

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The bounds by rank, and the differences from the best."""
        best = self.names[0]
        return {
            **self.bounds,
            **{f"{name} - {best}": each for name, each in self.differences.items()},
        }

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Empty: the per-datum values are those of the bounds."""
        return {}

    @property
    def verdict(self) -> Sequence[str]:
        """Which model is best and which differ from it, and reservations about the result."""
        points = {name for pair in self.behind.values() for name in pair.point_masses}
        if points:
            return [
                f"The models cannot be ranked: the guide of {' and '.join(sorted(points))} is a "
                "point mass (Delta), so its bounds are log p(x, z) at that point. Use a guide "
                "with a density."
            ]
        return [self._best(), *reservations(list(self.behind.values()))]

    def _best(self) -> str:
        best, second, *_ = self.names
        level = f"{self.errors:.2f} errors, 5% over all pairs"
        undefined = [name for name, d in self.differences.items() if not math.isfinite(d.mean)]
        if undefined:
            return (
                f"By {self.bound}, {best} has the highest mean; the difference from "
                f"{' and '.join(undefined)} is not finite, because some data are impossible."
            )
        near = [name for name in self.names[1:] if name not in self.apart]
        if near:
            return (
                f"By {self.bound}, {best} has the highest mean, and {_listed(near)} "
                f"{'does' if len(near) == 1 else 'do'} not differ from it significantly ({level})."
            )
        d = self.differences[second]
        digits = max(2, 1 - math.floor(math.log10(_error(d)))) if _error(d) > 0 else 3
        return (
            f"By {self.bound}, {best} is the best, ahead of {second} by "
            f"{-d.mean:.{digits}f} ± {_error(d):.{digits}f} nats ({level})."
        )


def rank(reports: Mapping[str, Report | SavedFinding]) -> Ranking:
    """Rank the reports of several models on the same data, by their tightest common bound.

    Args:
        reports: at least two reports by the names of their models, from `evaluate` or
            `read_report`, on the same data in the same order.

    Raises:
        ValueError: for fewer than two reports, and as `compare`.

    References:
        Hsu, 1996. Multiple Comparisons: Theory and Methods.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.rand(50, 64).round()
        >>> vaes = {width: pv.mlp_vae(64, latents=2, hidden=width) for width in (32, 16, 4)}
        >>> reports = {
        ...     f"width {width}": pv.evaluate(vae, x, particles=20) for width, vae in vaes.items()
        ... }
        >>> found = pv.rank(reports)
        >>> found.bound, sorted(found.names) == sorted(reports)
        ('IWAE-20', True)
    """
    if len(reports) < 2:
        raise ValueError(f"rank takes two reports or more; got {len(reports)}")
    estimates = {name: estimates_of(report) for name, report in reports.items()}
    particles = next(iter(reports.values())).bounds
    common = [name for name in particles if all(name in found for found in estimates.values())]
    bound = max(common, key=lambda name: particles[name])
    best, *others = sorted(reports, key=lambda name: _loss(estimates[name][bound]))
    behind = {name: compare(reports[name], reports[best], names=(name, best)) for name in others}
    return Ranking(bound, {name: estimates[name][bound] for name in (best, *others)}, behind)


def _loss(estimate: Estimate) -> float:
    return math.inf if math.isnan(estimate.mean) else -estimate.mean


def _error(estimate: Estimate) -> float:
    over_data = estimate.error_over_data
    return estimate.error_over_particles if math.isnan(over_data) else over_data


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
