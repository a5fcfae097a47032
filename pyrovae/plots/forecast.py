"""Plot forecasts of a sequence: the steps seen, the median ahead, and its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyrovae.plots.style import OBJECTIVE, TRAIN, VALIDATION, clean, panels

__all__ = ["forecast"]

INTERVALS: Final = ((0.9, 0.2), (0.5, 0.35))
"""The probabilities of the intervals, with the opacity of each."""


def forecast(
    draws: Tensor,
    seen: Tensor,
    *,
    ahead: Tensor | None = None,
    names: Sequence[str] = (),
    most: int = 6,
) -> Figure:
    """Plot the forecast of one sequence, a panel for each variable.

    Each panel has the steps seen, and of the draws the median and the intervals of 50 % and 90 %.

    Args:
        draws: the forecast, [S, H, D], such as `pyrovae.forecast(vae, x, mask, steps=H)[:, n]`.
        seen: the steps so far, [T, D].
        ahead: what came then, [H, D].
        names: the names of the D variables.
        most: the largest number of variables to plot.

    Raises:
        ValueError: if the shapes do not fit together.

    Example:
        >>> import torch, pyrovae as pv
        >>> figure = pv.plots.forecast(torch.randn(100, 4, 2), torch.zeros(6, 2))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['variable 0', 'variable 1']
    """
    width = seen.shape[-1]
    shapes = [tuple(draws.shape[1:]), *([] if ahead is None else [tuple(ahead.shape)])]
    if seen.ndim != 2 or draws.ndim != 3 or set(shapes) != {(draws.shape[1], width)}:
        raise ValueError(
            "expected draws [S, H, D], steps seen [T, D] and steps ahead [H, D]; got "
            f"{tuple(draws.shape)}, {tuple(seen.shape)}"
            + (f" and {tuple(ahead.shape)}" if ahead is not None else "")
        )
    shown = list(names or [f"variable {i}" for i in range(width)])[:most]
    figure, each = panels(shown, most=3, height=1.9)
    past = range(1, len(seen) + 1)
    later = range(len(seen) + 1, len(seen) + draws.shape[1] + 1)
    for i, name in enumerate(shown):
        axes, values = each[name], draws[..., i].double()
        axes.plot(past, seen[:, i], color=TRAIN, lw=1.2, marker=".", ms=3, label="seen")
        for share, alpha in INTERVALS:
            bounds = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
            low, high = values.quantile(bounds, 0)
            axes.fill_between(
                later, low, high, color=VALIDATION, alpha=alpha, lw=0, label=f"{100 * share:g} %"
            )
        axes.plot(later, values.median(0).values, color=VALIDATION, lw=1.2, label="median")
        if ahead is not None:
            axes.plot(later, ahead[:, i], ".", color=OBJECTIVE, ms=4, label="came")
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        clean(axes)
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    return figure
