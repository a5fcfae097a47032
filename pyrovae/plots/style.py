"""What every figure has in common: sizes, colors, and a frame that is no more than needed."""

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
"""Ten colors after Tol's muted scheme, told apart with any common color-blindness."""

MARKERS: Final = "o^sDvPX"
DASHED: Final = (0, (4, 2))


def blank(width: float, height: float) -> PortableFigure:
    """Return a figure of so many inches, with nothing in it."""
    return PortableFigure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")


def clean(axes: Any) -> None:
    """Leave of a frame what helps to read it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#666666")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(9.5)


def known(error: float) -> float:
    """Return an error bar; none where one particle cannot tell."""
    return 0.0 if math.isnan(error) else error
