r"""Rate against distortion: what models trained at several KL weights trade for each other.

    rate = KL(q(z | x) || p(z)),   distortion = -E_q log p(x | z),   ELBO = -(rate + distortion)

A model trained at KL weight beta minimizes distortion + beta * rate, so it stands where the curve
of the best models has slope -beta. Models of one ELBO, on a line of slope -1, may differ in all
that their latents say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from pyrovae.measure.evaluate import evaluate
from pyrovae.measure.findings import Finding, Quantity, counted
from pyrovae.measure.report import Report
from pyrovae.types import Data, Target
from pyrovae.weights.bounds import Estimate, difference


@dataclass(frozen=True)
class Point:
    """One model on the plane of rate and distortion, in nats.

    Attributes:
        rate: the closed-form KL where there is one, else the Monte Carlo estimate.
        distortion: the negative reconstruction.
        elbo: minus their sum, up to the errors over particles.
    """

    rate: Estimate
    distortion: Estimate
    elbo: Estimate


@final
@dataclass(frozen=True, repr=False)
class RateDistortion(Finding):
    """One report for each model, by the KL weight it was trained at.

    Attributes:
        reports: by KL weight, in rising order.
        wanted: how many models there were; an interrupt leaves some out.
    """

    reports: dict[float, Report]
    wanted: int

    @property
    def points(self) -> dict[float, Point]:
        """Rate, distortion and ELBO by KL weight."""
        return {weight: _point(report) for weight, report in self.reports.items()}

    @property
    def title(self) -> str:
        """How many models and data."""
        models = counted(len(self.reports), self.wanted, "models")
        data = len(next(iter(self.reports.values())).elbo.value)
        return f"{models}, {data:,} data, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return len(self.reports) < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The points by KL weight, and bits per dimension where x are whole numbers."""
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
        """Which weight has the highest ELBO, and where the rate does not fall as it must."""
        points = self.points
        best = max(points, key=lambda weight: points[weight].elbo.mean)
        said = [f"The ELBO is highest at KL weight {best:g}: {points[best].elbo.mean:.3f} nats."]
        weights = list(points)
        rising = [
            f"{smaller:g} to {larger:g}"
            for smaller, larger in zip(weights, weights[1:], strict=False)
            if _rises(
                points[smaller].rate,
                points[larger].rate,
                independent=self.reports[smaller].seed is None,
            )
        ]
        if rising:
            said.append(
                f"The rate rises from KL weight {', '.join(rising)}, where that of optimal "
                "models would fall: train longer, or from several seeds."
            )
        return said

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Nothing beside the estimates."""
        return {}


def rate_distortion(
    targets: Mapping[float, Target],
    data: Data,
    *,
    particles: int = 100,
    batch_size: int = 100,
    seed: int | None = 0,
) -> RateDistortion:
    """Measure models that were trained at several KL weights, on the same data and seed.

    An interrupt keeps the models that are done.

    Args:
        targets: a VAE, or a pair (model, guide), for each KL weight.
        data: as for `evaluate`.
        particles: as for `evaluate`.
        batch_size: as for `evaluate`.
        seed: of the particles, the same for every model.

    Raises:
        ValueError: if there is no target, a weight is negative or not finite, and as `evaluate`.
        KeyboardInterrupt: if the interrupt comes before the first model is done.

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
        raise ValueError("rate_distortion takes a model for each KL weight; got none")
    bad = [weight for weight in targets if not 0 <= weight < math.inf]
    if bad:
        raise ValueError(f"a KL weight is a finite number from 0; got {bad}")


def _point(report: Report) -> Point:
    exact, sampled = report.closed_form_kl, report.monte_carlo_kl
    distortion = replace(report.reconstruction, value=-report.reconstruction.value)
    return Point(sampled if exact is None else exact, distortion, report.elbo)


def _rises(smaller: Estimate, larger: Estimate, *, independent: bool) -> bool:
    """Tell whether a mean is above another by more than two errors of the paired difference."""
    rise = difference(larger, smaller, independent=independent)
    return rise.mean > 2 * rise.error_over_particles
