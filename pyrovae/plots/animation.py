"""Animate a walk: each latent dimension moves to its last quantile and back, as a GIF."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from pyrovae.data.images import Shape, fold
from pyrovae.measure.latents.traverse import Traversal
from pyrovae.plots.image_grid import Scale, scale_of, shaded
from pyrovae.plots.style import blank
from pyrovae.plots.walks import column_heads, labels

__all__ = ["Animation", "animation"]

MILLISECONDS: Final = 80
"""The duration of a frame."""

ACROSS: Final = 5
TILE: Final = 1.15
"""Tiles in a row, and the width of one in inches."""


@dataclass(frozen=True)
class Animation:
    """Frames that repeat, which a notebook displays and `pyrovae.plots.save` writes as .gif.

    Attributes:
        frames: images of one size.
    """

    frames: Sequence[Image.Image]

    @property
    def gif(self) -> bytes:
        """The frames as the bytes of a GIF. Equal frames in succession are stored as one."""
        buffer = io.BytesIO()
        first, *rest = self.frames
        first.save(
            buffer,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=MILLISECONDS,
            loop=0,
        )
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"image/gif": base64.b64encode(self.gif).decode()}


def animation(
    traversal: Traversal,
    shape: Shape | None = None,
    *,
    held: Mapping[str, str] | None = None,
    scale: Scale = None,
) -> Animation:
    """Animate a walk with one tile per dimension, from the first quantile to the last and back.

    Args:
        traversal: the result of `pyrovae.traverse`. The S quantiles make 2 S - 2 frames.
        shape: as for `reconstructions`.
        held: as for `traversals`.
        scale: as for `samples`.

    Raises:
        ValueError: if there are fewer than two quantiles, or the means are not of this shape.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> walk = pv.traverse(vae, torch.rand(6, 64).round(), of="prior")
        >>> len(pv.plots.animation(walk, (1, 8, 8)).frames)
        24
    """
    rows = [fold(row, shape) for row in traversal.means]
    steps = len(traversal.quantiles)
    if steps < 2:
        raise ValueError(f"an animation needs two quantiles or more; got {steps}")
    low, high = scale_of(rows, scale)
    across = min(len(rows), ACROSS)
    down = math.ceil(len(rows) / across)
    height, width, channels = rows[0].shape[1:]
    figure = blank(TILE * across, (TILE * height / width + 0.35) * down + 0.25)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    tiles = []
    for axes, row, label in zip(panels.flat, rows, labels(traversal, held), strict=False):
        tile = axes.imshow(
            shaded(row[0], low, high).numpy(),
            cmap="gray",
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
        axes.set_title(label, fontsize=7.5)
        tiles.append(tile)
    caption = figure.supxlabel(" ", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # The frames have one layout.
    drawn = []
    for step, head in enumerate(column_heads(traversal)):
        for tile, row in zip(tiles, rows, strict=True):
            tile.set_data(shaded(row[step], low, high).numpy())
        caption.set_text(f"quantile {head}" if head.endswith("%") else f"z = {head}")
        canvas.draw()
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        drawn.append(frame.convert("L") if channels == 1 else frame)
    return Animation([*drawn, *drawn[-2:0:-1]])
