"""Draw images in a grid: data, reconstructions, samples and traversals."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["PIXELS_PER_INCH", "WIDTH", "PortableFigure", "columns", "mosaic", "png"]

PIXELS_PER_INCH: Final = 120
WIDTH: Final = 7.2
"""The width of a figure in inches, that of a notebook page or a journal's double column."""


class PortableFigure(Figure):
    """A figure that a notebook displays without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes, reproducibly."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mosaic(rows: list[Tensor], *, names: list[str]) -> Figure:
    """Draw rows of images [N_i, H, W, C] in one axes, with thin gaps between the images.

    Args:
        rows: images of one size.
        names: a label for each row, or none.

    Raises:
        ValueError: if a pixel is NaN or infinite.
    """
    low, high = _range(rows)
    count, height, width, channels = rows[0].shape
    gap = max(1, height // 14)
    canvas = torch.full(
        (len(rows) * (height + gap) - gap, count * (width + gap) - gap, channels), math.nan
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    scale = "" if (low, high) == (0, 1) else f"darkest {low:.3g}, brightest {high:.3g}"
    axes = _frame(canvas, count, beside=0.085 * max(map(len, [*names, ""])), caption=scale)
    if channels == 3:
        canvas = ((canvas - low) / (high - low)).nan_to_num(nan=1.0)
    axes.imshow(canvas.squeeze(-1).numpy(), cmap="gray", vmin=low, vmax=high)
    middles = [i * (height + gap) + (height - 1) / 2 for i in range(len(names))]
    axes.set_yticks(middles, names)
    return axes.figure


def columns(n: int) -> int:
    """Return the number of columns for n images: full rows if possible, at most 2 : 1."""
    full = [c for c in range(1, n + 1) if n % c == 0 and n <= c * c <= 4 * n]
    return min(full[0] if full else math.ceil(math.sqrt(2 * n)), 20)


def _frame(canvas: Tensor, count: int, *, beside: float, caption: str) -> Any:
    """Return axes with the canvas's aspect ratio, and room for row labels and a caption."""
    edge, below = 0.04, 0.26 if caption else 0.0
    across = min(WIDTH - beside, 1.2 * count)
    tall = across * canvas.shape[0] / canvas.shape[1]
    page = across + beside + 2 * edge, tall + below + 2 * edge
    left, bottom = (beside + edge) / page[0], (below + edge) / page[1]
    figure = PortableFigure(figsize=page, dpi=PIXELS_PER_INCH)
    axes = figure.add_axes((left, bottom, across / page[0], tall / page[1]))
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=9)
    axes.set_xlabel(caption, fontsize=9, loc="left")
    return axes


def _range(images: Iterable[Tensor]) -> tuple[float, float]:
    values = torch.cat([image.flatten() for image in images])
    if not torch.isfinite(values).all():
        raise ValueError("the images have NaN or infinite values: did the training diverge?")
    low, high = values.min().item(), values.max().item()
    inside = low >= 0 and high <= 1
    return (0.0, 1.0) if inside or low == high else (low, high)
