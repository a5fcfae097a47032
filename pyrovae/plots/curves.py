"""Bounds on log p(x) against the particles they take."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from pyrovae.bounds import Estimate
from pyrovae.evaluation import Report
from pyrovae.mosaics import WIDTH
from pyrovae.plots.style import TRAIN, blank, clean, known


def bounds(report: Report) -> Figure:
    """Draw the importance-weighted bounds against k; at k = 1 stands the ELBO.

    The bars are one standard error over particles to either side. The error over data is common
    to all points, since they are measured on the same data, and would drown their differences:
    the figure states it instead.

    Args:
        report: as returned by `evaluate`.

    Raises:
        ValueError: if the report has no importance-weighted bound.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> figure = pv.plots.bounds(pv.evaluate(vae, torch.zeros(5, 64), particles=100))
        >>> figure.axes[0].get_xlabel()
        'particles in the bound, k'
    """
    if not report.iwae:
        raise ValueError(
            "the report has no importance-weighted bound to draw: evaluate with two particles or "
            "more, or with ks"
        )
    estimates = {1: report.elbo} | report.iwae
    ks = sorted(estimates)
    figure = blank(0.7 * WIDTH, 3.2)
    axes = figure.subplots()
    axes.errorbar(
        ks,
        [estimates[k].mean for k in ks],
        yerr=[known(estimates[k].error_over_particles) for k in ks],
        color=TRAIN,
        marker="o",
        markersize=4.5,
        capsize=4,
        label=_errors(estimates[ks[-1]]),
    )
    particle_axis(axes, ks)
    axes.set_ylabel("bound on log p(x), nats per datum")
    title = f"{len(report.elbo.value):,} data, {report.particles:,} particles"
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    clean(axes)
    return figure


def particle_axis(axes: Any, ks: list[int]) -> None:
    """Make x logarithmic, its ticks at the k drawn, or at powers of ten where they crowd."""
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
