"""Plot what a decoder makes of given latents: walks, interpolations and manifolds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data.images import Shape, fold
from pyrovae.measure.latents.interpolate import Interpolation
from pyrovae.measure.latents.manifold import Manifold
from pyrovae.measure.latents.traverse import Traversal
from pyrovae.plots.image_grid import WIDTH, Scale, mosaic, scale_of, shaded, tiled
from pyrovae.plots.style import blank

__all__ = ["column_heads", "interpolations", "labels", "manifold", "profiles", "traversals"]

NAMED: Final = 30
"""The largest number of data columns whose names are written."""

TICKS: Final = 5
"""The number of coordinates that are written at each edge of a manifold."""


def traversals(
    traversal: Traversal,
    shape: Shape | None = None,
    *,
    held: Mapping[str, str] | None = None,
    scale: Scale = None,
) -> Figure:
    r"""Plot the means of p(x | z) along latent dimensions, one row per dimension.

    Rows are labeled with the dimension, its KL in nats where it is known, and the factor held.
    Columns are labeled with the value of z if all rows share it, else with the quantile level.

    Args:
        traversal: the result of `pyrovae.traverse`.
        shape: as for `reconstructions`.
        held: what a dimension holds, by its name, as `labels` of `pyrovae.assign`.
        scale: as for `samples`.

    Raises:
        ValueError: if the means are not of this shape. Vectors that are no images are drawn by
            `profiles`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.traverse(vae, torch.rand(6, 64).round(), dimensions=["z[1]"], of="prior")
        >>> figure = pv.plots.traversals(found, (1, 8, 8), held={"z[1]": "slant"})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['z[1], ... nats\nslant']
    """
    rows = [fold(row, shape) for row in traversal.means]
    return mosaic(
        rows,
        names=labels(traversal, held),
        heads=column_heads(traversal),
        caption=_caption(traversal),
        scale=scale,
    )


def interpolations(
    found: Mapping[str, Interpolation], shape: Shape | None = None, *, scale: Scale = None
) -> Figure:
    """Plot the means of p(x | z) between two data, one row per path.

    Args:
        found: results of `pyrovae.interpolate` with the same shares, by the name of the path.
        shape: as for `reconstructions`.
        scale: as for `samples`.

    Raises:
        ValueError: if there is nothing to plot, or the means are not of this shape.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.rand(2, 64).round()
        >>> paths = {"linear": pv.paths.linear, "spherical": pv.paths.spherical}
        >>> found = {name: pv.interpolate(vae, x, path=path) for name, path in paths.items()}
        >>> figure = pv.plots.interpolations(found, (1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()][:3]
        ['0', '0.1', '0.2']
    """
    if not found:
        raise ValueError("a figure of interpolations needs at least one; got none")
    heads = [f"{share:.2g}" for share in next(iter(found.values())).shares.tolist()]
    rows = [fold(each.means, shape) for each in found.values()]
    return mosaic(rows, names=list(found), heads=heads, scale=scale)


def profiles(
    traversal: Traversal,
    columns: Sequence[str] = (),
    *,
    held: Mapping[str, str] | None = None,
    unit: str = "units of x",
) -> Figure:
    """Plot how the mean of each column of x changes along latent dimensions, for tables.

    Colors are the mean of p(x | z) minus its value at the middle of the walk, on one scale for all
    panels. Each panel is a dimension; up to 30 columns are named.

    Args:
        traversal: the result of `pyrovae.traverse`.
        columns: the names of the D columns of x; by default their indices.
        held: as for `traversals`.
        unit: what the columns are measured in, for the color bar.

    Raises:
        ValueError: if the number of names is not D.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(4, latents=2, hidden=16)
        >>> found = pv.traverse(vae, torch.rand(6, 4).round(), of="prior")
        >>> figure = pv.plots.profiles(found, ["age", "height", "weight", "sex"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['age', 'height', 'weight', 'sex']
    """
    means = traversal.means.flatten(2).detach().cpu().double()
    count, steps, width = means.shape
    names = list(columns) or [str(i) for i in range(width)]
    if len(names) != width:
        raise ValueError(f"x has {width} columns; got {len(names)} names: name each of them")
    change = means - means[:, steps // 2 : steps // 2 + 1]
    most = change.abs().max().item() or 1.0
    across = min(count, 5)
    rows = -(-count // across)
    tall = 0.5 + 0.16 * min(width, NAMED)
    figure = blank(min(WIDTH, 1.9 + 1.4 * across), max(2.2, 0.4 + rows * tall))
    panels = figure.subplots(rows, across, squeeze=False, sharey=True)
    titles, heads = labels(traversal, held), column_heads(traversal)
    for axes in panels.flat[count:]:
        axes.set_axis_off()
    for axes, panel, title in zip(panels.flat, change, titles, strict=False):
        image = axes.imshow(panel.T.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        axes.set_title(title, fontsize=8.5)
        shown = sorted({0, steps // 2, steps - 1})
        axes.set_xticks(shown, [heads[i] for i in shown], fontsize=8)
        if width <= NAMED:
            axes.set_yticks(range(width), names, fontsize=8)
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{width} columns of x" if axes in panels[:, 0] else "", fontsize=8.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar: Any = figure.colorbar(image, ax=panels, pad=0.02, aspect=40)
    bar.outline.set_visible(False)
    bar.set_label(f"change of the mean of $x$,\n{unit}", size=8.5)
    bar.ax.tick_params(labelsize=8)
    figure.supxlabel(_caption(traversal), fontsize=8.5)
    return figure


def manifold(found: Manifold, shape: Shape | None = None, *, scale: Scale = None) -> Figure:
    """Plot the means of p(x | z) over two latent dimensions, without gaps.

    The first dimension runs to the right, the second up, as in a latent map. Coordinates are
    those of the prior's quantiles, which are not equally spaced.

    Args:
        found: the result of `pyrovae.manifold`.
        shape: as for `reconstructions`.
        scale: as for `samples`.

    Raises:
        ValueError: if the means are not of this shape.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.manifold(pv.manifold(vae, side=5), (1, 8, 8))
        >>> figure.axes[0].get_xlabel(), figure.axes[0].images[0].get_array().shape
        ('z[0]', (40, 40))
    """
    side = len(found.levels)
    rows = [fold(found.means[:, j], shape) for j in reversed(range(side))]
    low, high = scale_of(rows, scale)
    height, width = rows[0].shape[1:3]
    canvas = tiled(rows, 0)
    tall = 0.8 * WIDTH * canvas.shape[0] / canvas.shape[1]
    figure = blank(0.8 * WIDTH + 0.5, min(tall, 1.4 * WIDTH) + 0.5)
    axes = figure.subplots()
    axes.imshow(shaded(canvas, low, high).numpy(), cmap="gray", vmin=low, vmax=high)
    shown = torch.linspace(0, side - 1, min(TICKS, side)).round().int().tolist()
    across, up = found.grid.tolist()
    axes.set_xticks([(i + 0.5) * width - 0.5 for i in shown], [f"{across[i]:.2f}" for i in shown])
    places = [(side - i - 0.5) * height - 0.5 for i in shown]
    axes.set_yticks(places, [f"{up[i]:.2f}" for i in shown])
    axes.tick_params(labelsize=8, color="#666666")
    axes.spines[:].set_visible(False)
    if (low, high) != (0, 1):
        axes.set_title(f"darkest {low:.3g}, brightest {high:.3g}", loc="left", fontsize=8.5)
    axes.set_xlabel(found.names[0], size=9.5)
    axes.set_ylabel(found.names[1], size=9.5)
    return figure


def labels(traversal: Traversal, held: Mapping[str, str] | None = None) -> list[str]:
    """Return a label for each dimension: its name, its KL, and on a second line the factor."""
    found = []
    for name, kl in zip(traversal.names, traversal.kl.tolist(), strict=True):
        known = name if kl != kl else f"{name}, {kl:.2f} nats"
        factor = (held or {}).get(name)
        found.append(known if factor is None else f"{known}\n{factor}")
    return found


def column_heads(traversal: Traversal) -> list[str]:
    """Return the value of z at each step if all dimensions share it, else the levels."""
    values: Tensor = traversal.values
    if traversal.of == "prior" and torch.allclose(values, values[:1].expand_as(values), atol=1e-3):
        return [f"{round(value, 2) + 0.0:g}" for value in values[0].tolist()]
    return [f"{round(100 * level, 1):g}%" for level in traversal.quantiles]


def _caption(traversal: Traversal) -> str:
    whose = "prior" if traversal.of == "prior" else "aggregate posterior"
    sorted_by = {"KL": ", sorted by KL", "activity": ", sorted by activity", "given": ""}
    return f"one dimension at a time, at quantiles of the {whose}{sorted_by[traversal.order]}"
