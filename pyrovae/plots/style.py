"""The common style of all figures: size, colors, markers and axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from pyrovae.plots.image_grid import PIXELS_PER_INCH, WIDTH, PortableFigure

__all__ = [
    "CLASSES",
    "DASHED",
    "MARKERS",
    "OBJECTIVE",
    "TRAIN",
    "VALIDATION",
    "blank",
    "clean",
    "panels",
]

TRAIN: Final = "#0072B2"
VALIDATION: Final = "#D55E00"
OBJECTIVE: Final = "#8C8C8C"
CLASSES: Final = (
    *("#332288", "#E69F00", "#44AA99", "#CC6677", "#117733"),
    *("#56B4E9", "#882255", "#999933", "#AA4499", "#777777"),
)
"""Ten colors after Tol's muted scheme, distinguishable with any common color-blindness."""

MARKERS: Final = "o^sDvPX<>p*"
DASHED: Final = (0, (4, 2))


def blank(width: float, height: float) -> PortableFigure:
    """Return an empty figure of a width and height in inches."""
    return PortableFigure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")


def panels(names: Sequence[str], *, most: int, height: float) -> tuple[Figure, dict[str, Any]]:
    """Return a figure with one panel for each name, at most `most` beside each other."""
    columns = min(most, len(names))
    rows = math.ceil(len(names) / columns)
    figure = blank(WIDTH * columns / most, 0.35 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure, dict(zip(names, grid, strict=False))


def clean(axes: Any) -> None:
    """Remove the top and right spines, and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#666666")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(9.5)
