"""Plot which unit of a representation holds which factor, and how each unit answers to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from pyrovae.measure.disentanglement.assign import assign
from pyrovae.measure.disentanglement.assignment import Assignment
from pyrovae.measure.disentanglement.pairs import Codes, Pairs, Units, values_of
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import OBJECTIVE, TRAIN, VALIDATION, blank, clean

__all__ = ["assignment", "factor_responses"]

ROWS: Final = 30
"""The largest number of units that the map of an assignment shows."""

PANELS: Final = 10
"""The largest number of units whose responses are shown."""

TICKS: Final = 6
"""The largest number of values of a factor that are all written."""


def assignment(found: Assignment) -> Figure:
    """Plot the information of each unit about each factor, as a share of the factor's entropy.

    A frame marks the units that hold a factor. Of more than 30 units, those with the most
    information are shown, and the title says of how many.

    Args:
        found: the result of `assign`.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(3, (500, 2))
        >>> figure = pv.plots.assignment(pv.assign(factors, factors, names=["hue", "size"]))
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['hue', 'size']
    """
    share = found.share
    kept = sorted(share.max(1).values.argsort(descending=True, stable=True)[:ROWS].tolist())
    units, values = [found.units[j] for j in kept], share[kept].numpy()
    longest = max(len(name) for name in found.factors)
    figure = blank(
        min(WIDTH, 2.7 + 0.8 * len(found.factors)), 1.4 + 0.06 * longest + 0.28 * len(units)
    )
    axes = figure.subplots()
    image = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row, unit in enumerate(units):
        for column, name in enumerate(found.factors):
            value = values[row, column]
            if value >= 0.005:
                color = "white" if value > 0.55 else "#222222"
                axes.text(
                    *(column, row, f"{value:.0%}"), ha="center", va="center", color=color, size=8
                )
            if unit in found.holders[name]:
                axes.add_patch(_frame(column, row))
    axes.set_title(f"framed: held by the unit{_of_all(kept, found.units)}", size=9, loc="left")
    axes.set_xticks(range(len(found.factors)), found.factors, rotation=30, ha="right")
    axes.set_yticks(range(len(units)), units)
    axes.tick_params(labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=25)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.set_label("share of the factor's entropy", size=9.5)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=VALIDATION, linewidth=1.8
    )


def factor_responses(
    representation: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    assigned: Assignment | None = None,
) -> Figure:
    """Plot the mean of each unit against the values of each factor, with its standard deviation.

    Units are rows and factors are columns. A panel is colored if the unit holds the factor, by
    `assign`. Of more than 10 units, those with the most information about a factor are shown, and
    the title says of how many.

    Args:
        representation: the units of N data, such as posterior means, [N, L], as of `assign`.
        factors: the factors [N, F], as of `assign`.
        names: the names of the factors.
        units: the names of the units.
        assigned: what `assign` returned for the same units and factors; by default it is called.

    Raises:
        ValueError: as `assign`, and if `assigned` is of other units or factors.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(3, (500, 2))
        >>> figure = pv.plots.factor_responses(factors, factors, names=["hue", "size"])
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['', '', 'hue', 'size']
    """
    pairs = Pairs.of(representation, factors, names=names, units=units)
    if assigned is None:
        assigned = assign(representation, factors, names=names, units=units)
    if (assigned.units, assigned.factors) != (pairs.units, pairs.factors):
        raise ValueError(
            f"the assignment is of the units {list(assigned.units)} and the factors "
            f"{list(assigned.factors)}; got {list(pairs.units)} and {list(pairs.factors)}: assign "
            "the same ones"
        )
    moments = [_moments(pairs.z, v, size) for v, size in zip(pairs.v.T, pairs.sizes, strict=True)]
    told = assigned.share.max(1).values.argsort(descending=True, stable=True)
    kept = sorted(told[:PANELS].tolist())
    columns = len(pairs.factors)
    figure = blank(min(1.6 * WIDTH, 1.5 + 1.4 * columns), 0.7 + 0.9 * len(kept))
    grid = figure.subplots(len(kept), columns, squeeze=False, sharex="col", sharey="row")
    for row, j in zip(grid, kept, strict=True):
        for k, axes in enumerate(row):
            mean, spread = (moment[:, j] for moment in moments[k])
            holds = pairs.units[j] in assigned.holders[pairs.factors[k]]
            color = TRAIN if holds else OBJECTIVE
            values = np.arange(len(mean))
            axes.fill_between(
                values, mean - spread, mean + spread, color=color, alpha=0.25, linewidth=0
            )
            axes.plot(values, mean, ".-", color=color, linewidth=1.2, markersize=4)
            clean(axes)
            axes.tick_params(labelsize=7.5)
        row[0].set_ylabel(pairs.units[j])
    for name, words, axes in zip(pairs.factors, values_of(factors), grid[-1], strict=True):
        axes.set_xlabel(name)
        _name_values(axes, words)
    figure.suptitle(
        f"colored: held by the unit{_of_all(kept, pairs.units)}", size=9, x=0.01, ha="left"
    )
    figure.align_ylabels(grid[:, 0])
    return figure


def _of_all(kept: Sequence[int], units: Sequence[str]) -> str:
    """Return a note on the units that are left out; empty if none is."""
    if len(kept) == len(units):
        return ""
    return f". The {len(kept)} of {len(units)} units that tell most"


def _name_values(axes: Any, words: Sequence[str]) -> None:
    """Write the values of a factor at its ticks: all of a few, else some."""
    shown = range(len(words))
    if len(words) > TICKS:
        shown = np.linspace(0, len(words) - 1, TICKS - 2).round().astype(int).tolist()
    long = sum(len(words[i]) for i in shown) > 12
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(list(shown), [words[i] for i in shown], **turned)


def _moments(z: Units, v: Codes, size: int) -> tuple[Units, Units]:
    """Return the mean and the standard deviation of each unit at each value, [K, L] each."""
    groups = [z[v == value] for value in range(size)]
    return np.stack([group.mean(0) for group in groups]), np.stack(
        [group.std(0) for group in groups]
    )
