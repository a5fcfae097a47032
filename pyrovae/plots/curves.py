"""Plot bounds on log p(x) against the number of particles, and rate-distortion curves."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from pyrovae.measure.findings import PARETO, estimate_of, or_zero
from pyrovae.measure.rate_distortion import RateDistortion
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import DASHED, OBJECTIVE, TRAIN, VALIDATION, blank, clean
from pyrovae.weights import psis as pareto
from pyrovae.weights.bounds import Estimate

__all__ = ["bounds", "level", "lines_of_one_elbo", "particle_axis", "rate_distortion"]


def bounds(report: Report | SavedFinding) -> Figure:
    """Plot the importance-weighted bounds against k, with the ELBO at k = 1.

    Error bars are one standard error over particles. The error over data is common to all points,
    because they are evaluated on the same data; it is stated in the legend. If the Pareto k-hat
    of every datum is within its limit, a dashed line shows the extrapolation to infinitely many
    particles, with a band of one standard error.

    Args:
        report: the result of `evaluate` or `read_report`.

    Raises:
        ValueError: if the report has no importance-weighted bound.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.bounds(pv.evaluate(vae, torch.zeros(5, 64), particles=100))
        >>> figure.axes[0].get_xlabel()
        'particles in the bound, k'
    """
    estimates = {k: estimate_of(report, name) for name, k in report.bounds.items()}
    if len(report.bounds) < 2:
        raise ValueError(
            "the report has no importance-weighted bound to plot: evaluate with at least two "
            "particles, or with ks"
        )
    ks = sorted(estimates)
    figure = blank(0.7 * WIDTH, 3.2)
    axes = figure.subplots()
    axes.errorbar(
        ks,
        [estimates[k].mean for k in ks],
        yerr=[or_zero(estimates[k].error_over_particles) for k in ks],
        color=TRAIN,
        marker="o",
        markersize=4.5,
        capsize=4,
        label=_errors(estimates[ks[-1]]),
    )
    shapes = report.per_datum[PARETO]
    trusted = not (shapes.isnan() | pareto.beyond(shapes, report.particles)).any()
    if "extrapolated" in report.quantities and trusted:
        level(axes, estimate_of(report, "extrapolated"), "extrapolated, no bound")
    particle_axis(axes, ks)
    axes.set_ylabel("bound on log p(x), nats per datum")
    axes.set_title(report.subject, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    clean(axes)
    return figure


def rate_distortion(found: RateDistortion) -> Figure:
    """Plot the distortion of each model against its rate, with contours of the ELBO.

    Error bars are one standard error over particles. Each point is labeled with the KL weight of
    its model's training.

    Args:
        found: the result of `pyrovae.rate_distortion`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.rate_distortion({1.0: vae}, torch.zeros(5, 64))
        >>> pv.plots.rate_distortion(found).axes[0].get_ylabel()
        'distortion, nats per datum'
    """
    points = list(found.points.values())
    rates, distortions = [p.rate for p in points], [p.distortion for p in points]
    figure = blank(0.7 * WIDTH, 3.8)
    axes = figure.subplots()
    axes.errorbar(
        [rate.mean for rate in rates],
        [distortion.mean for distortion in distortions],
        xerr=[or_zero(rate.error_over_particles) for rate in rates],
        yerr=[or_zero(distortion.error_over_particles) for distortion in distortions],
        color=TRAIN,
        marker="o",
        markersize=4.5,
        capsize=3,
        zorder=3,
    )
    for weight, point in found.points.items():
        axes.annotate(
            f"{weight:g}",
            (point.rate.mean, point.distortion.mean),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=9,
        )
    axes.margins(0.12)
    at = [(point.rate.mean, point.distortion.mean) for point in points]
    lines_of_one_elbo(axes, [place for ends in pairwise(at) for place in _between(*ends)] or at)
    axes.set_xlabel("rate, nats per datum")
    axes.set_ylabel("distortion, nats per datum")
    axes.set_title("numbers: the KL weight in training", loc="left", fontsize=10)
    clean(axes)
    return figure


def _between(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    """Return eleven points on the line between two points, including both."""
    shares = [share / 10 for share in range(11)]
    return [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for t in shares]


def lines_of_one_elbo(axes: Any, points: list[tuple[float, float]]) -> None:
    """Draw contours of the ELBO, of slope -1, with labels away from the points."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def room(rate: float, total: float) -> float:
        """Return the distance of a place on a line to the nearest point, in widths of the axes."""
        return min(
            math.hypot((rate - r) / (right - left), (total - rate - d) / (top - bottom))
            for r, d in points
        )

    for total in MaxNLocator(6).tick_values(left + bottom, right + top):
        low, high = max(left, total - top), min(right, total - bottom)
        if high - low < (right - left) / 5:
            continue
        ends = [total - low, total - high]
        axes.plot([low, high], ends, color=OBJECTIVE, linestyle=DASHED, linewidth=0.8, zorder=1)
        places = [low + share / 10 * (high - low) for share in range(2, 9)]
        place = max(places, key=functools.partial(room, total=total))
        axes.text(
            place,
            total - place,
            f"ELBO {-total:,.6g}".replace("-", "\N{MINUS SIGN}"),
            ha="center",
            va="center",
            fontsize=7.5,
            color="#666666",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=2,
        )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def level(axes: Any, estimate: Estimate, label: str) -> None:
    """Draw a mean as a horizontal dashed line, with a band of one standard error."""
    error = or_zero(estimate.error_over_particles)
    band = (estimate.mean - error, estimate.mean + error)
    axes.axhspan(*band, color=VALIDATION, alpha=0.2, linewidth=0)
    axes.axhline(estimate.mean, color=VALIDATION, linestyle=DASHED, linewidth=1.2, label=label)


def particle_axis(axes: Any, ks: list[int]) -> None:
    """Set a logarithmic x axis with ticks at the values of k, or at powers of ten if crowded."""
    crowded = any(following < 2.2 * k for k, following in zip(ks, ks[1:], strict=False))
    ticks = [10**i for i in range(len(str(ks[-1])))] if crowded else ks
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda k, _: "1\n(ELBO)" if k == 1 else f"{k:,.0f}")
    )
    axes.set_xlabel("particles in the bound, k")


def _errors(estimate: Estimate) -> str:
    label = "bars: ± 1 standard error over particles"
    if math.isnan(estimate.error_over_data):
        return label
    return f"{label}\n(over data: ± {estimate.error_over_data:.2g}, common to all points)"
