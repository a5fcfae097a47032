"""Draw labeled points: classes with a legend of several columns, or numbers with a color bar.

Colors and markers alternate, 10 and 11 of them, so that 110 classes look different.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pyrovae.plots.image_grid import WIDTH, PortableFigure
from pyrovae.plots.style import CLASSES, MARKERS, blank

__all__ = ["LOOKS", "Labels", "labeled_points", "page_for"]

Labels = Tensor | Sequence[Any] | None
"""One label for each datum: whole numbers or words for classes, floats for a color scale."""

LOOKS: Final = math.lcm(len(CLASSES), len(MARKERS))
"""The number of classes that look different."""

PER_COLUMN: Final = 26
"""The most labels in one column of a legend, in small letters."""

FEW: Final = 18
"""The most labels in larger letters."""

CHARACTER: Final = 0.075
"""The width of a small character in inches."""


def page_for(labels: Labels, n: int) -> tuple[PortableFigure, Any]:
    """Return an empty figure with room for a legend, and the labels as an array, or None.

    Raises:
        ValueError: if there is not one label for each of the n data, or if words name more
            classes than look different.
    """
    width, height = 0.8 * WIDTH, 0.66 * WIDTH
    if labels is None:
        return blank(width, height), None
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else list(labels))
    if values.shape != (n,):
        raise ValueError(
            f"the map needs one label for each of the {n} data; got labels of shape {values.shape}"
        )
    classes = _classes(values)
    if classes is None:
        return blank(width, height), values
    columns = math.ceil(len(classes) / PER_COLUMN)
    longest = max(len(_written(label)) for label in classes)
    beside = CHARACTER * longest + 0.35
    return blank(width + (columns - 1) * beside + max(0.0, beside - 0.6), height), values


def labeled_points(
    figure: PortableFigure, axes: Any, points: Tensor, values: Any, *, title: str = "label"
) -> None:
    """Draw points [N, 2] with a legend or a color bar for their labels; None for one color."""
    size = min(24.0, max(3.0, 12000 / len(points)))
    look = {"s": size, "alpha": 0.8, "linewidths": 0}
    if values is None:
        axes.scatter(*points.T.tolist(), color=CLASSES[0], **look)
        return
    classes = _classes(values)
    if classes is None:
        drawn = axes.scatter(*points.T.tolist(), c=values.astype(float), cmap="viridis", **look)
        bar: Any = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=40)
        bar.solids.set_alpha(1.0)
        bar.outline.set_visible(False)
        bar.set_label(title, size=9)
        bar.ax.tick_params(labelsize=8, color="#666666")
        return
    for i, label in enumerate(classes):
        axes.scatter(
            *points[torch.as_tensor(values == label)].T.tolist(),
            color=CLASSES[i % len(CLASSES)],
            marker=MARKERS[i % len(MARKERS)],
            label=_written(label),
            **look,
        )
    small = len(classes) > FEW
    legend: Any = figure.legend(
        title=title,
        loc="outside right center",
        frameon=False,
        handletextpad=0.2,
        ncols=math.ceil(len(classes) / PER_COLUMN),
        **({"fontsize": 8, "labelspacing": 0.25, "columnspacing": 0.8} if small else {}),
    )
    for handle in legend.legend_handles:
        handle.set_sizes([30.0])


def _classes(values: Any) -> list[Any] | None:
    """Return the distinct labels in order; None for numbers to be drawn on a color scale."""
    found = np.unique(values)
    numbers = found.dtype.kind in "iuf"
    if len(found) <= LOOKS and not (found.dtype.kind == "f" and (found != found.round()).any()):
        return list(found)
    if numbers:
        return None
    raise ValueError(
        f"a map tells {LOOKS} labels apart; got {len(found):,}: pass fewer, or numbers, which are "
        "drawn on a color scale"
    )


def _written(label: Any) -> str:
    return f"{label:g}" if isinstance(label, int | float | np.number) else str(label)
