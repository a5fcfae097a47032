"""Plot sequences of numbers as curves, over their reconstructions if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import CLASSES, MARKERS, blank, clean

__all__ = ["series"]

MOST = 4
"""The number of variables of a sequence that are drawn, the first ones."""


@torch.no_grad()
def series(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    reconstructions: Tensor | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Plot sequences of numbers, one below the other: time to the right, a color a variable.

    With reconstructions, data are markers and reconstructions are lines. Steps of padding are
    left out, and so are variables after the fourth, which the label of the axis then says.

    Args:
        x: the sequences, [N, T, D].
        mask: booleans [N, T], True where there is a step; None for all.
        reconstructions: what is drawn over x, [N, T, D].
        names: the names of the D variables.

    Raises:
        ValueError: if x has another shape, no sequence or values at steps that are not finite, or
            the mask, the reconstructions or the names do not fit it.

    Example:
        >>> import torch, pyrovae as pv
        >>> wave = torch.linspace(0, 6, 20).sin().reshape(1, 20, 1)
        >>> figure = pv.plots.series(wave, torch.arange(20).expand(1, 20) < 15)
        >>> len(figure.axes[0].lines[0].get_xdata())
        15
    """
    steps = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
    _check(x, steps, reconstructions, names)
    named = list(names or [f"variable {i}" for i in range(x.shape[2])])[:MOST]
    figure = blank(WIDTH, 0.7 + 1.35 * len(x))
    panels = figure.subplots(len(x), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for n, axes in enumerate(panels):
        for i, name in enumerate(named):
            if reconstructions is None:
                _draw(axes, x[n, :, i], steps[n], i, label=name)
            else:
                _draw(axes, x[n, :, i], steps[n], i, label=f"{name}, data", data=True)
                label = f"{name}, reconstruction"
                _draw(axes, reconstructions[n, :, i], steps[n], i, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        clean(axes)
    left_out = f" (the first {MOST} of {x.shape[2]} variables)" if x.shape[2] > MOST else ""
    panels[-1].set_xlabel(f"step{left_out}")
    lines, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1 or names:
        at = {"loc": "outside upper center", "ncols": len(named)}
        figure.legend(lines, labels, **at, frameon=False, fontsize=8.5)
    return figure


def _draw(axes: Any, x: Tensor, steps: Tensor, i: int, *, label: str, data: bool = False) -> None:
    """Draw one variable [T] of a sequence: data as markers, others as a line."""
    time = steps.nonzero().flatten() + 1
    look: dict[str, Any] = {"lw": 1.2}
    if data:
        look = {"ls": "", "marker": MARKERS[i], "ms": 3, "alpha": 0.6}
    elif len(time) == 1:  # a line of one step is not seen
        look |= {"marker": MARKERS[i], "ms": 3}
    axes.plot(time, x.cpu()[steps], color=CLASSES[i], label=label, **look)


def _check(x: Tensor, mask: Tensor, reconstructions: Tensor | None, names: Sequence[str]) -> None:
    after = x if reconstructions is None else reconstructions
    if x.ndim != 3 or not x.numel() or mask.shape != x.shape[:2] or after.shape != x.shape:
        raise ValueError(
            "curves take x [N, T, D], of one sequence or more, reconstructions of its shape and a "
            f"mask [N, T]; got shapes {tuple(x.shape)}, {tuple(after.shape)} and "
            f"{tuple(mask.shape)}"
        )
    for values in (x, after):
        odd = values.cpu()[mask]
        odd = odd[~odd.isfinite()]
        if len(odd):
            raise ValueError(f"curves show finite numbers; got {odd[0].item():g} at a step")
    if names and len(names) != x.shape[2]:
        raise ValueError(f"give one name for each of {x.shape[2]} variables; got {len(names)}")
