r"""The rate-distortion curve: rate and distortion of models trained with several KL weights.

    rate = KL(q(z | x) || p(z)),   distortion = -E_q log p(x | z),   ELBO = -(rate + distortion)

A model trained with KL weight beta minimizes distortion + beta * rate. It lies at the point where
the curve of optimal models has slope -beta. Models with equal ELBO may have different rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from pyrovae.measure.evaluate import evaluate
from pyrovae.measure.findings import Finding, Quantity, counted
from pyrovae.measure.report import Report
from pyrovae.types import Data, Target
from pyrovae.weights.bounds import Estimate, difference

__all__ = ["Point", "RateDistortion", "rate_distortion"]


@dataclass(frozen=True)
class Point:
    """The rate and distortion of one model, in nats.

    Attributes:
        rate: the closed-form KL if it has one, else the Monte Carlo estimate.
        distortion: minus the reconstruction.
        elbo: the ELBO, minus the sum of both up to the errors over particles.
    """

    rate: Estimate
    distortion: Estimate
    elbo: Estimate


@final
@dataclass(frozen=True, repr=False)
class RateDistortion(Finding):
    """The result of `rate_distortion`: one report for each model.

    Attributes:
        reports: the reports by KL weight, in increasing order.
        wanted: the number of models given; an interrupt may leave some out.
    """

    reports: dict[float, Report]
    wanted: int

    @property
    def points(self) -> dict[float, Point]:
        """Rate, distortion and ELBO, by KL weight."""
        return {weight: _point(report) for weight, report in self.reports.items()}

    @property
    def title(self) -> str:
        """The number of models, the number of data, and the unit."""
        models = counted(len(self.reports), self.wanted, "models")
        data = len(next(iter(self.reports.values())).elbo.value)
        return f"{models}, {data:,} data, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete."""
        return len(self.reports) < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The points by KL weight, and bits per dimension if x are integers."""
        named: dict[str, Quantity] = {}
        for weight, point in self.points.items():
            named[f"rate at {weight:g}"] = point.rate
            named[f"distortion at {weight:g}"] = point.distortion
            named[f"ELBO at {weight:g}"] = point.elbo
            if self.reports[weight].of_whole_numbers:
                bits = self.reports[weight].bits_per_dimension()
                named[f"bits per dimension at {weight:g}"] = bits
        return named

    @property
    def verdict(self) -> list[str]:
        """The KL weight with the highest ELBO, and where the rate increases with the KL weight."""
        points = self.points
        means = {weight: point.elbo.mean for weight, point in points.items()}
        best = max(means, key=lambda w: -math.inf if math.isnan(means[w]) else means[w])
        if not math.isfinite(means[best]):
            return ["No ELBO is finite: every model finds some data impossible."]
        near = [
            f"{weight:g}"
            for weight in points
            if weight != best and not self._rises(points[weight].elbo, points[best].elbo)
        ]
        beside = f"; at {', '.join(near)} it is as high within two errors" if near else ""
        said = [f"The ELBO is highest at KL weight {best:g}: {means[best]:.3f} nats{beside}."]
        weights = list(points)
        rising = [
            f"{smaller:g} to {larger:g}"
            for smaller, larger in zip(weights, weights[1:], strict=False)
            if self._rises(points[smaller].rate, points[larger].rate)
        ]
        if rising:
            said.append(
                f"The rate increases from KL weight {', '.join(rising)}; for optimal models it "
                "decreases. Train longer, or from several seeds."
            )
        return said

    def _rises(self, smaller: Estimate, larger: Estimate) -> bool:
        independent = next(iter(self.reports.values())).seed is None
        return _rises(smaller, larger, independent=independent)


def rate_distortion(
    targets: Mapping[float, Target],
    data: Data,
    *,
    particles: int = 100,
    batch_size: int = 100,
    seed: int | None = 0,
) -> RateDistortion:
    r"""Measure the rate and distortion of models trained with several KL weights.

    $$ R = KL(q(z | x) \,\|\, p(z)), \qquad D = -E_q \log p(x | z) $$

    Both are in nats per datum. An interrupt keeps the models that are finished.

    Args:
        targets: a VAE, or a pair (model, guide), by the KL weight that it was trained with.
        data: the data, as for `evaluate`.
        particles: K, the number of particles for each datum.
        batch_size: the number of data in memory at once.
        seed: the seed of the particles, the same for every model.

    Raises:
        ValueError: if there is no target, if a weight is negative or not finite, and as
            `evaluate`.
        KeyboardInterrupt: if the interrupt comes before the first model is finished.

    References:
        Alemi, Poole, Fischer, Dillon, Saurous, Murphy, 2018. Fixing a Broken ELBO.

    Example:
        >>> import torch, pyrovae as pv
        >>> untrained = {weight: pv.mlp_vae(64, latents=2, hidden=16) for weight in (0.5, 1.0)}
        >>> found = pv.rate_distortion(untrained, torch.zeros(5, 64))
        >>> sum(p.rate.mean + p.distortion.mean > 0 for p in found.points.values())
        2
    """
    _check(targets)
    reports: dict[float, Report] = {}
    try:
        for weight in sorted(targets):
            report = evaluate(
                targets[weight], data, particles=particles, batch_size=batch_size, seed=seed
            )
            if report.partial:
                raise KeyboardInterrupt
            reports[weight] = report
    except KeyboardInterrupt:
        if not reports:
            raise
    return RateDistortion(reports, len(targets))


def _check(targets: Mapping[float, Target]) -> None:
    if not targets:
        raise ValueError("rate_distortion needs at least one model; got none: pass {weight: vae}")
    bad = [weight for weight in targets if not 0 <= weight < math.inf]
    if bad:
        raise ValueError(f"KL weights must be finite and not negative; got {bad}")


def _point(report: Report) -> Point:
    exact, sampled = report.closed_form_kl, report.monte_carlo_kl
    distortion = replace(report.reconstruction, value=-report.reconstruction.value)
    return Point(sampled if exact is None else exact, distortion, report.elbo)


def _rises(smaller: Estimate, larger: Estimate, *, independent: bool) -> bool:
    """Return whether a mean increases by more than two errors of the paired difference.

    It is the larger of the two errors: a verdict is on the models, not on these data alone.
    """
    rise = difference(larger, smaller, independent=independent)
    if math.isinf(rise.mean):
        return rise.mean > 0
    errors = (e for e in (rise.error_over_data, rise.error_over_particles) if not math.isnan(e))
    return rise.mean > 2 * max(errors, default=math.inf)
