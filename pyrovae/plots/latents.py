"""Plot the posterior means of data in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import CLASSES, MARKERS, blank, clean
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.posterior_means import MEAN_DRAWS
from pyrovae.weights.target import evaluation_mode

__all__ = ["latent_map"]

MOMENTS: Final = ("mean", "standard deviation")


@torch.no_grad()
def latent_map(
    vae: VAE,
    x: Tensor,
    labels: Tensor | Sequence[int] | None,
    *context: ContextValue,
    site: str | None = None,
) -> Figure:
    """Plot the posterior means of latents (`vae.embed`) for each datum, colored by label.

    Two latent dimensions are plotted directly. For more, the axes are the first two principal
    components of the posterior means; for one, they are its mean and standard deviation.

    Args:
        vae: the VAE.
        x: data [N, ...].
        labels: integers [N]; None for one color.
        *context: passed to `vae.embed`.
        site: the name of the latent site; by default all sites side by side.

    Raises:
        ValueError: if `labels` does not have one label per datum, or principal components are
            needed for a single datum; and as `vae.embed`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.latent_map(vae, torch.rand(6, 64).round(), [0, 1, 2, 0, 1, 2])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['0', '1', '2']
    """
    classes = torch.as_tensor([0] * len(x) if labels is None else labels).detach().cpu()
    if classes.shape != (len(x),):
        raise ValueError(
            f"the map needs one label for each of the {len(x)} data; got labels of shape "
            f"{tuple(classes.shape)}"
        )
    means = vae.embed(x, *context, site=site).cpu().double()
    if means.shape[1] == 1:
        with evaluation_mode(vae):
            deviations = _deviations(vae.encode(x, *context, site=site))
        points = torch.cat([means, deviations.cpu().double().reshape(len(x), 1)], 1)
        names, same_unit = [f"posterior {moment} of $z$" for moment in MOMENTS], False
    else:
        (points, names), same_unit = _plane(means), True
    figure = blank(0.8 * WIDTH, 0.66 * WIDTH)
    axes = figure.subplots()
    axes.set_aspect("equal" if same_unit else "auto", adjustable="datalim")
    for i, label in enumerate(classes.unique().tolist()):
        across, up = points[classes == label].T.tolist()
        axes.scatter(
            across,
            up,
            s=min(24.0, max(3.0, 12000 / len(x))),
            color=CLASSES[i % len(CLASSES)],
            marker=MARKERS[i % len(MARKERS)],
            alpha=0.8,
            linewidths=0,
            label=f"{label:g}",
        )
    axes.set(xlabel=names[0], ylabel=names[1])
    if labels is not None:
        legend: Any = figure.legend(
            title="label", loc="outside right center", frameon=False, handletextpad=0.2
        )
        for handle in legend.legend_handles:
            handle.set_sizes([30.0])
    clean(axes)
    return figure


def _plane(means: Tensor) -> tuple[Tensor, list[str]]:
    """Return coordinates [N, 2] of posterior means of two or more dimensions, and their names."""
    if means.shape[1] == 2:
        return means, ["posterior mean of $z_1$", "posterior mean of $z_2$"]
    if len(means) < 2:
        raise ValueError("principal components need at least two data; got one")
    centered = means - means.mean(0)
    _, spread, axes = torch.linalg.svd(centered, full_matrices=False)
    share = spread.square() / spread.square().sum().clamp(min=1e-300)
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    names = [
        f"posterior means, {order} component ({100 * part:.0f}% of variance)"
        for order, part in zip(("first", "second"), share.tolist(), strict=False)
    ]
    return centered @ (signs * axes)[:2].T, names


def _deviations(posterior: Any) -> Tensor:
    """Return the standard deviations, from draws if there is no closed form."""
    try:
        found: Tensor = posterior.stddev
    except NotImplementedError:
        found = posterior.sample((MEAN_DRAWS,)).std(0)
    return found
