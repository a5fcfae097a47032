"""Plot the paired differences of two models on the same data."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from pyrovae.measure.compare import APART, Comparison
from pyrovae.measure.findings import or_zero
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import OBJECTIVE, TRAIN, VALIDATION, blank, clean

__all__ = ["comparison"]


def comparison(comparison: Comparison) -> Figure:
    """Plot a histogram of the differences per datum, and the mean of each quantity's difference.

    The histogram shows the tightest bound. Error bars are 95% intervals over data.

    Args:
        comparison: the result of `compare`.

    Raises:
        ValueError: if the difference of a datum is not finite.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.rand(50, 64).round()
        >>> vaes = [pv.mlp_vae(64, latents=2, hidden=width) for width in (32, 4)]
        >>> wide, narrow = (pv.evaluate(vae, x, particles=20) for vae in vaes)
        >>> figure = pv.plots.comparison(pv.compare(wide, narrow))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['IWAE-20 of a - b, nats', 'mean of a - b, nats']
    """
    a, b = comparison.names
    values = comparison.differences[comparison.bound].value
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{int((~values.isfinite()).sum())} data have no finite difference to plot: they have "
            f"zero probability under {a}, {b} or both"
        )
    figure = blank(WIDTH, 2.9)
    per_datum, means = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _spread(per_datum, comparison, values)
    _means(means, comparison)
    for axes, what in ((per_datum, f"{comparison.bound} of"), (means, "mean of")):
        axes.axvline(0, color="#333333", linewidth=0.9)
        axes.set_xlabel(f"{what} {a} - {b}, nats")
        clean(axes)
    per_datum.grid(visible=False, axis="x")
    return figure


def _spread(axes: Any, comparison: Comparison, values: torch.Tensor) -> None:
    a, b = comparison.names
    estimate = comparison.differences[comparison.bound]
    edges = torch.linspace(*_ends(values), 41, dtype=torch.float64).tolist()
    for side, color, name in ((values > 0, TRAIN, a), (values < 0, VALIDATION, b)):
        share = side.double().mean().item()
        axes.hist(
            values[side].tolist(), edges, color=color, alpha=0.85, label=f"{name}: {share:.0%}"
        )
    axes.axvline(estimate.mean, color="#333333", linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_ylabel("data")
    axes.set_title("who is ahead, datum by datum", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5)


def _ends(values: torch.Tensor) -> tuple[float, float]:
    """Return the ends of 40 equal bins with an edge at zero."""
    low, high = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    if low == high:
        return -1.0, 1.0
    below = min(40, max(0, round(40 * -low / (high - low))))
    below = max(below, 1 if low < 0 else 0)
    above = 40 - below
    if high > 0 and above == 0:
        below, above = 39, 1
    width = max(-low / below if below else 0.0, high / above if above else 0.0)
    return -below * width, above * width


def _means(axes: Any, comparison: Comparison) -> None:
    names = list(comparison.differences)
    for row, name in enumerate(names):
        estimate = comparison.differences[name]
        axes.errorbar(
            [estimate.mean],
            [row],
            xerr=[APART * or_zero(estimate.error_over_data)],
            fmt="o",
            color=TRAIN if name == comparison.bound else OBJECTIVE,
            markersize=4.5,
            capsize=3,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title("means, 95% over data", loc="left", fontsize=10)
