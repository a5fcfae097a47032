"""The common style of all figures: size, colors, markers and axes."""

from __future__ import annotations

import math
from typing import Any, Final

from pyrovae.plots.image_grid import PIXELS_PER_INCH, PortableFigure

__all__ = [
    "CLASSES",
    "DASHED",
    "MARKERS",
    "OBJECTIVE",
    "TRAIN",
    "VALIDATION",
    "blank",
    "clean",
    "known",
]

TRAIN: Final = "#0072B2"
VALIDATION: Final = "#D55E00"
OBJECTIVE: Final = "#8C8C8C"
CLASSES: Final = (
    *("#332288", "#E69F00", "#44AA99", "#CC6677", "#117733"),
    *("#56B4E9", "#882255", "#999933", "#AA4499", "#777777"),
)
"""Ten colors after Tol's muted scheme, distinguishable with any common color-blindness."""

MARKERS: Final = "o^sDvPX"
DASHED: Final = (0, (4, 2))


def blank(width: float, height: float) -> PortableFigure:
    """Return an empty figure of a width and height in inches."""
    return PortableFigure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")


def clean(axes: Any) -> None:
    """Remove the top and right spines, and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#666666")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(9.5)


def known(error: float) -> float:
    """Return an error for a bar, 0 if it is NaN, as with a single particle."""
    return 0.0 if math.isnan(error) else error
