"""Plot the mismatch of aggregate posterior and prior in a plane of the latent space."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from pyrovae.measure.latents.plane import LatentPlane
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import VALIDATION, blank, clean

__all__ = ["holes"]

PRIOR: Final = "#1A1A1A"
OUTSIDE: Final = "#6A3D9A"
SHARES: Final = (0.99, 0.9, 0.5)
"""The shares of the prior's mass within its contours."""


def holes(plane: LatentPlane) -> Figure:
    """Plot the aggregate posterior, contours of the prior, and the regions where they mismatch.

    A hole is a region where q(z) < `plane.hole` p(z): the prior samples there, but the decoder
    was hardly trained there. Holes are hatched within the outermost contour of the prior. Regions
    outside the prior, p(z) < `plane.hole` q(z), are hatched within the contour that holds the
    same share of the aggregate posterior.

    Args:
        plane: the result of `pyrovae.latent_plane`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.holes(pv.latent_plane(vae, torch.rand(20, 64).round()))
        >>> figure.axes[0].get_xlabel()
        'z[0]'
    """
    across, up = plane.grid.tolist()
    prior, aggregate = plane.prior.T.numpy(), plane.aggregate.T.numpy()
    figure = blank(WIDTH, 0.56 * WIDTH)
    axes = figure.subplots()
    image = axes.pcolormesh(across, up, aggregate, cmap="Blues", shading="gouraud", vmin=0)
    levels = _levels(plane.prior)
    axes.contour(across, up, prior, levels=levels, colors=PRIOR, linewidths=0.9)
    _hatch(axes, plane, plane.in_holes & (plane.prior >= levels[0]), VALIDATION, "////")
    crowded = plane.aggregate >= _levels(plane.aggregate)[0]
    _hatch(axes, plane, plane.outside & crowded, OUTSIDE, "....")
    axes.set(xlabel=plane.names[0], ylabel=plane.names[1])
    clean(axes)
    axes.grid(visible=False)
    bar: Any = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("aggregate posterior $q(z)$", size=9)
    bar.ax.tick_params(labelsize=8, color="#666666")
    figure.legend(handles=_legend(plane), loc="outside right center", frameon=False, fontsize=8.5)
    smoothed = f", {' and '.join(plane.smoothed)} smoothed" if plane.smoothed else ""
    axes.set_title(f"{plane.size:,} data{smoothed}", loc="left", fontsize=10)
    return figure


def _hatch(axes: Any, plane: LatentPlane, where: Tensor, color: str, pattern: str) -> None:
    """Hatch a region of the grid and draw its boundary."""
    if not where.any():
        return
    across, up = plane.grid.tolist()
    inside = where.T.float().numpy()
    filled = axes.contourf(across, up, inside, levels=[0.5, 1.5], colors="none", hatches=[pattern])
    filled.set_edgecolor(color)
    filled.set_linewidth(0)
    axes.contour(across, up, inside, levels=[0.5], colors=color, linewidths=1.1)


def _levels(density: Tensor) -> list[float]:
    """Return the density levels that enclose `SHARES` of the mass, in ascending order."""
    ordered = density.flatten().sort(descending=True).values
    mass = ordered.cumsum(0) / ordered.sum()
    return sorted(ordered[int((mass < share).sum())].item() for share in SHARES)


def _legend(plane: LatentPlane) -> list[Any]:
    shares = ", ".join(f"{100 * share:.0f}" for share in sorted(SHARES))
    return [
        Line2D([], [], color=PRIOR, linewidth=0.9, label=f"prior $p(z)$:\n{shares}% of its mass"),
        Patch(
            facecolor="none",
            edgecolor=VALIDATION,
            hatch="////",
            label=f"hole, $q(z) < {plane.hole:g}\\,p(z)$:\n"
            f"{100 * plane.prior_mass_in_holes:.1f}% of the prior",
        ),
        Patch(
            facecolor="none",
            edgecolor=OUTSIDE,
            hatch="....",
            label=f"outside, $p(z) < {plane.hole:g}\\,q(z)$:\n"
            f"{100 * plane.aggregate_mass_outside:.1f}% of the codes",
        ),
    ]
