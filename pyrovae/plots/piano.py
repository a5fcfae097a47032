"""Plot sequences of notes as piano rolls."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import blank

__all__ = ["piano_rolls"]

OCTAVE = 12
PADDING = "#E3D9C6"
"""The color of steps of padding, which no gray of a note has."""


@torch.no_grad()
def piano_rolls(
    x: Tensor, mask: Tensor | None = None, *, names: Sequence[str] = (), lowest: int | None = 21
) -> Figure:
    """Plot sequences of notes, one below the other: time to the right, pitch upwards.

    A note is black where it sounds, or gray by its probability. Steps of padding are tinted.

    Args:
        x: zeros and ones, or probabilities, [N, T, D] of D keys from the lowest one.
        mask: booleans [N, T], True where there is a step; None for all.
        names: what each panel shows, such as "data"; () for nothing.
        lowest: the MIDI number of the lowest key, 21 on a piano; None if it is not known, and the
            keys are numbered from 0.

    Raises:
        ValueError: if x has another shape, no sequence or values outside [0, 1], or the mask or
            the names do not fit it.

    Example:
        >>> import torch
        >>> from pyrovae.plots import piano_rolls
        >>> scale = torch.eye(12)[None, [0, 2, 4, 5, 7, 9, 11]]
        >>> figure = piano_rolls(scale, names=["a scale of C"], lowest=60)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['C4']
    """
    steps = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    _check(x, steps, names)
    figure = blank(WIDTH, 0.5 + 1.3 * len(x))
    panels = figure.subplots(len(x), 1, sharex=True, squeeze=False)[:, 0]
    colors = matplotlib.colormaps["gray_r"].with_extremes(bad=PADDING)
    least = lowest or 0
    octaves = [key for key in range(least, least + x.shape[2]) if key % OCTAVE == 0]
    ticks = octaves if lowest is None else [f"C{key // OCTAVE - 1}" for key in octaves]
    for n, axes in enumerate(panels):
        shown = x[n].float().masked_fill(~steps[n].unsqueeze(-1), float("nan")).T.cpu().numpy()
        extent = (0.5, x.shape[1] + 0.5, least - 0.5, least + x.shape[2] - 0.5)
        axes.imshow(
            np.ma.masked_invalid(shown),
            cmap=colors,
            vmin=0.0,
            vmax=1.0,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=extent,
        )
        axes.set_yticks(octaves, [str(tick) for tick in ticks], fontsize=8)
        if names:
            axes.set_title(names[n], loc="left", fontsize=9)
    panels[-1].set_xlabel("step")
    return figure


def _check(x: Tensor, mask: Tensor, names: Sequence[str]) -> None:
    if x.ndim != 3 or not x.numel() or mask.shape != x.shape[:2]:
        raise ValueError(
            "a piano roll takes x [N, T, D] and a mask [N, T], of one sequence or more; got "
            f"shapes {tuple(x.shape)} and {tuple(mask.shape)}"
        )
    bad = ~((x >= 0) & (x <= 1)) & mask.unsqueeze(-1)
    if bad.any():
        raise ValueError(
            f"a piano roll shows numbers from 0 to 1; got {x[bad][0].item():g}: give notes that "
            "sound or their probabilities, not logits"
        )
    if names and len(names) != len(x):
        raise ValueError(f"give one name for each of {len(x)} sequences; got {len(names)}")
