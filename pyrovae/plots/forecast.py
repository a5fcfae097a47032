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
    draws, seen = torch.as_tensor(draws).detach(), torch.as_tensor(seen).detach()
    ahead = None if ahead is None else torch.as_tensor(ahead).detach()
    _check_shapes(draws, seen, ahead)
    width = seen.shape[1]
    names = list(names or [f"variable {i}" for i in range(width)])
    if [len(names), len(set(names))] != [width, width] or most < 1:
        raise ValueError(
            f"expected {width} different names and one panel or more; got {names} and most={most}"
        )
    shown = names[:most]
    figure, each = panels(shown, most=3, height=1.9)
    past = range(1, len(seen) + 1)
    # From the last step seen on, so that a forecast of one step is a line, too.
    later = range(len(seen), len(seen) + draws.shape[1] + 1)
    for i, name in enumerate(shown):
        axes, values = each[name], torch.cat([seen[-1:].expand(len(draws), 1, -1), draws], 1)
        values = values[..., i].double()
        axes.plot(past, seen[:, i], color=TRAIN, lw=1.2, marker=".", ms=3, label="seen")
        for share, alpha in INTERVALS:
            bounds = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
            low, high = values.quantile(bounds, 0)
            axes.fill_between(
                later, low, high, color=VALIDATION, alpha=alpha, lw=0, label=f"{100 * share:g} %"
            )
        axes.plot(later, values.median(0).values, color=VALIDATION, lw=1.2, label="median")
        if ahead is not None:
            axes.plot(later[1:], ahead[:, i], ".", color=OBJECTIVE, ms=4, label="held out")
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        clean(axes)
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    return figure


def _check_shapes(draws: Tensor, seen: Tensor, ahead: Tensor | None) -> None:
    after = [] if ahead is None else [ahead]
    fits = draws.ndim == 3 and seen.ndim == 2 and min(*draws.shape, *seen.shape) > 0
    fits = fits and seen.shape[1] == draws.shape[2]
    if not fits or any(each.shape != draws.shape[1:] for each in after):
        met = ", ".join(str(tuple(each.shape)) for each in (draws, seen, *after))
        raise ValueError(
            f"expected draws [S, H, D], steps seen [T, D] and steps ahead [H, D]; got {met}"
        )
