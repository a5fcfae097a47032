"""Plot the posterior means of data in the latent space."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plots.labeled import Labels, labeled_points, page_for
from pyrovae.plots.style import clean
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.posterior_means import MEAN_DRAWS
from pyrovae.weights.target import evaluation_mode

__all__ = ["Embedding", "latent_map"]

MOMENTS: Final = ("mean", "standard deviation")
ORDER: Final = ("first", "second")


class Embedding(Protocol):
    """An object that maps vectors to a plane, such as a transformer of scikit-learn."""

    def fit_transform(self, X: Any) -> Any:  # noqa: N803
        """Return coordinates [N, 2] of vectors [N, L]."""


@torch.no_grad()
def latent_map(
    vae: VAE,
    x: Tensor,
    labels: Labels,
    *context: ContextValue,
    site: str | None = None,
    embedding: Embedding | None = None,
) -> Figure:
    """Plot the posterior means of latents (`vae.embed`) for each datum, colored by label.

    Two latent dimensions are plotted directly. For more, the axes are the first two principal
    components of the posterior means; for one, they are its mean and standard deviation.

    Args:
        vae: the VAE.
        x: data [N, ...].
        labels: classes or conditions [N]. Whole numbers and words get a legend; floats, or more
            than 110 numbers, a color bar. None for one color.
        *context: passed to `vae.embed`.
        site: the name of the latent site; by default all sites side by side.
        embedding: an object whose `fit_transform` maps posterior means [N, L] to [N, 2], such as
            `sklearn.manifold.TSNE()`, `sklearn.decomposition.PCA(2)` or `umap.UMAP()`.

    Raises:
        ValueError: if `labels` does not have one label per datum or has more than 110 words,
            principal components are needed for a single datum, or the embedding does not give two
            finite coordinates; and as `vae.embed`.

    References:
        van der Maaten, Hinton, 2008. Visualizing Data using t-SNE.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.latent_map(vae, torch.rand(6, 64).round(), [0, 1, 2, 0, 1, 2])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['0', '1', '2']
        >>> from sklearn.manifold import TSNE
        >>> wide = pv.mlp_vae(64, latents=5, hidden=16)
        >>> tsne = TSNE(perplexity=5, random_state=0)
        >>> figure = pv.plots.latent_map(wide, torch.rand(20, 64).round(), None, embedding=tsne)
        >>> figure.axes[0].get_xlabel()
        'TSNE of posterior means, first coordinate'
    """
    figure, values = page_for(labels, len(x))
    means = vae.embed(x, *context, site=site).cpu().double()
    same_unit = True
    if embedding is not None:
        points, names = _embedded(means, embedding)
    elif means.shape[1] == 1:
        with evaluation_mode(vae):
            deviations = _deviations(vae.encode(x, *context, site=site))
        points = torch.cat([means, deviations.cpu().double().reshape(len(x), 1)], 1)
        names, same_unit = [f"posterior {moment} of $z$" for moment in MOMENTS], False
    else:
        points, names = _plane(means)
    axes = figure.subplots()
    axes.set_aspect("equal" if same_unit else "auto", adjustable="datalim")
    labeled_points(figure, axes, points, values)
    axes.set(xlabel=names[0], ylabel=names[1])
    clean(axes)
    return figure


def _embedded(means: Tensor, embedding: Embedding) -> tuple[Tensor, list[str]]:
    """Return coordinates [N, 2] of posterior means by an embedding, and their names."""
    name = type(embedding).__name__
    if not callable(getattr(embedding, "fit_transform", None)):
        raise ValueError(
            "an embedding is an object with fit_transform, such as sklearn.manifold.TSNE(); got "
            f"{name if not isinstance(embedding, type) else f'the class {embedding.__name__}'}"
        )
    points = torch.as_tensor(np.asarray(embedding.fit_transform(means.numpy()))).double()
    if points.shape != (len(means), 2) or not points.isfinite().all():
        raise ValueError(
            f"{name} must give two finite coordinates for each of the {len(means)} data; got "
            f"shape {tuple(points.shape)} with {int((~points.isfinite()).sum())} that are not "
            "finite: set its number of components to 2"
        )
    return points, [f"{name} of posterior means, {order} coordinate" for order in ORDER]


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
        for order, part in zip(ORDER, share.tolist(), strict=False)
    ]
    return centered @ (signs * axes)[:2].T, names


def _deviations(posterior: Any) -> Tensor:
    """Return the standard deviations, from draws if there is no closed form."""
    try:
        found: Tensor = posterior.stddev
    except NotImplementedError:
        found = posterior.sample((MEAN_DRAWS,)).std(0)
    return found
