"""Draw images in a grid: data, reconstructions, samples and traversals."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

__all__ = [
    "PIXELS_PER_INCH",
    "WIDTH",
    "PortableFigure",
    "Scale",
    "columns",
    "mosaic",
    "png",
    "scale_of",
    "shaded",
    "tiled",
    "value_range",
]

PIXELS_PER_INCH: Final = 120
WIDTH: Final = 7.2
"""The width of a figure in inches, that of a notebook page or a journal's double column."""

Scale = tuple[float, float] | None
"""The values drawn black and white, beyond which images are clipped; None for their own."""


class PortableFigure(Figure):
    """A figure that a notebook displays without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes, reproducibly."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mosaic(
    rows: list[Tensor],
    *,
    names: Sequence[str],
    heads: Sequence[str] = (),
    caption: str = "",
    scale: Scale = None,
) -> Figure:
    """Draw rows of images [N_i, H, W, C] in one axes, with thin gaps between the images.

    Args:
        rows: images of one size.
        names: a label for each row, of a line or two, or none.
        heads: a label above each column, or none.
        caption: a line below the images, before the scale of their values.
        scale: the values drawn black and white; by default those of `value_range`.

    Raises:
        ValueError: if a pixel is NaN or infinite.
    """
    low, high = scale_of(rows, scale)
    count, height, width, channels = rows[0].shape
    gap = max(1, height // 14)
    canvas = tiled(rows, gap)
    stated = "" if (low, high) == (0, 1) else f"darkest {low:.3g}, brightest {high:.3g}"
    lines = [line for name in names for line in name.splitlines()]
    beside = 0.085 * max(map(len, [*lines, ""]))
    caption = "; ".join(filter(None, [caption, stated]))
    axes = _frame(canvas, count, beside=beside, above=0.2 if heads else 0.0, caption=caption)
    axes.imshow(shaded(canvas, low, high).numpy(), cmap="gray", vmin=low, vmax=high)
    middles = [i * (height + gap) + (height - 1) / 2 for i in range(len(names))]
    axes.set_yticks(middles, names)
    if heads:
        axes.xaxis.tick_top()
        middles = [j * (width + gap) + (width - 1) / 2 for j in range(len(heads))]
        axes.set_xticks(middles, heads, fontsize=8)
        axes.xaxis.set_label_position("bottom")
    return axes.figure


def tiled(rows: Sequence[Tensor], gap: int) -> Tensor:
    """Return rows of images [N_i, H, W, C] as one canvas [H', W', C], NaN between the images."""
    count, height, width, channels = rows[0].shape
    canvas = torch.full(
        (len(rows) * (height + gap) - gap, count * (width + gap) - gap, channels), math.nan
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    return canvas


def shaded(canvas: Tensor, low: float, high: float) -> Tensor:
    """Return a canvas as `imshow` takes it: gray values [H, W], or colors [H, W, 3] in [0, 1].

    Colors beyond the scale are clipped, as `imshow` does with grays.
    """
    if canvas.shape[-1] == 3:
        canvas = ((canvas - low) / (high - low)).clamp(0.0, 1.0).nan_to_num(nan=1.0)
    return canvas.squeeze(-1)


def columns(n: int) -> int:
    """Return the number of columns for n images: full rows if possible, at most 2 : 1."""
    full = [c for c in range(1, n + 1) if n % c == 0 and n <= c * c <= 4 * n]
    return min(full[0] if full else math.ceil(math.sqrt(2 * n)), 20)


def _frame(canvas: Tensor, count: int, *, beside: float, above: float, caption: str) -> Any:
    """Return axes with the canvas's aspect ratio, and room for labels and a caption."""
    edge, below = 0.04, 0.26 if caption else 0.0
    across = min(WIDTH - beside, 1.2 * count)
    tall = across * canvas.shape[0] / canvas.shape[1]
    page = across + beside + 2 * edge, tall + below + above + 2 * edge
    left, bottom = (beside + edge) / page[0], (below + edge) / page[1]
    figure = PortableFigure(figsize=page, dpi=PIXELS_PER_INCH)
    axes = figure.add_axes((left, bottom, across / page[0], tall / page[1]))
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=9)
    axes.set_xlabel(caption, fontsize=9, loc="left")
    return axes


def scale_of(rows: Sequence[Tensor], scale: Scale) -> tuple[float, float]:
    """Return the values drawn black and white: a given scale, or that of the images themselves.

    Raises:
        ValueError: if a pixel is NaN or infinite.
    """
    own = value_range(rows)
    return own if scale is None else scale


def value_range(images: Iterable[Tensor]) -> tuple[float, float]:
    """Return the values drawn black and white: 0 and 1 if all lie between, else the extremes.

    Raises:
        ValueError: if a pixel is NaN or infinite.
    """
    values = torch.cat([image.flatten() for image in images])
    if not torch.isfinite(values).all():
        raise ValueError("the images have NaN or infinite values: did the training diverge?")
    low, high = values.min().item(), values.max().item()
    inside = low >= 0 and high <= 1
    return (0.0, 1.0) if inside or low == high else (low, high)
