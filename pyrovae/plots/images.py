"""Plot reconstructions and samples of image models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data.images import Shape, fold
from pyrovae.plots.image_grid import Scale, columns, mosaic, value_range
from pyrovae.randomness import seeded
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.sites import mean_of
from pyrovae.weights.target import as_tensors, evaluation_mode

__all__ = ["reconstructions", "samples", "samples_by"]


@torch.no_grad()
def reconstructions(
    vae: VAE, x: Any, shape: Shape | None = None, *context: ContextValue
) -> Figure:
    """Plot data above their reconstructions, the mean of p(x | z) at one z ~ q(z | x).

    The scale of gray or color is that of the data: [0, 1] if all data lie in it, else their range,
    which the figure states. Reconstructions beyond it are clipped.

    Args:
        vae: the VAE.
        x: the data to show, images [N, C, H, W] or flat vectors [N, C * H * W], ten per row.
        shape: (C, H, W), with one channel (grayscale) or three (RGB); None for images, which
            have their own.
        *context: passed to `vae.reconstruct`.

    Raises:
        ValueError: if x is empty or not of this shape, or p(x | z) has no mean.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> figure = pv.plots.reconstructions(vae, torch.zeros(5, 64), (1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['data', 'reconstruction']
    """
    x, *context = as_tensors(vae, x, *context)  # type: ignore[assignment]
    data = fold(x, shape)
    with evaluation_mode(vae):
        means = fold(vae.reconstruct(x, *context), shape)
    columns = min(len(data), 10)
    rows: list[Tensor] = []
    for pair in zip(data.split(columns), means.split(columns), strict=True):
        rows += pair
    names = ["data", "reconstruction"] * (len(rows) // 2)
    return mosaic(rows, names=names, scale=value_range([data]))


@torch.no_grad()
def samples(
    vae: VAE,
    n: int,
    shape: Shape | None = None,
    *context: ContextValue,
    means: bool = True,
    scale: Scale = None,
) -> Figure:
    """Plot the means of p(x | z) at n samples of the prior, z ~ p(z), or samples of x.

    A mean shows what the latents say about x. A sample of x, as of `vae.sample`, has the noise of
    p(x | z) too: that of binary pixels looks grainy.

    Args:
        vae: the VAE.
        n: the number of images.
        shape: as for `reconstructions`.
        *context: passed to the prior and the likelihood.
        means: whether to plot means, or samples of x.
        scale: the values drawn black and white, such as (0, 1), beyond which images are clipped.
            By default (0, 1) if all values lie in it, else their range, which the figure states.

    Raises:
        ValueError: if n is below 1, the samples are not of this shape, or p(x | z) has no mean
            and `means` is true.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> len(pv.plots.samples(vae, 16, (1, 8, 8)).axes[0].images)
        1
    """
    if n < 1:
        raise ValueError(f"a figure of samples needs at least one; got n={n}")
    with evaluation_mode(vae):
        x = mean_of(vae.predictive(n, *context)) if means else vae.sample(n, *context)
    return mosaic(list(fold(x, shape).split(columns(n))), names=[], scale=scale)


@torch.no_grad()
def samples_by(
    vae: VAE,
    conditions: Mapping[str, Sequence[Any]],
    n: int = 10,
    shape: Shape | None = None,
    *,
    means: bool = True,
    scale: Scale = None,
) -> Figure:
    """Plot samples under several conditions, one row each.

    The random numbers of all rows are the same. If the prior does not depend on the condition, a
    column shows one z under each condition.

    Args:
        vae: the VAE.
        conditions: the context of one datum by the name of the condition, each argument [1, ...].
        n: the number of images in a row.
        shape: as for `reconstructions`.
        means: whether to plot means of p(x | z), or samples of x.
        scale: as for `samples`.

    Raises:
        ValueError: if there are no conditions, and as `samples`.

    Example:
        >>> import torch, pyrovae as pv
        >>> nets = pv.nets.MLP(2 + 3, 16, 64), pv.nets.MLP(64 + 3, 16, 4)
        >>> vae = pv.VAE(
        ...     pv.priors.StandardNormal(2),
        ...     pv.likelihoods.Bernoulli(nets[0]),
        ...     pv.guides.MeanFieldNormal(nets[1]),
        ... )
        >>> classes = {f"class {i}": [torch.eye(3)[i : i + 1]] for i in range(3)}
        >>> figure = pv.plots.samples_by(vae, classes, 5, (1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['class 0', 'class 1', 'class 2']
    """
    if n < 1 or not conditions:
        raise ValueError(
            f"a figure of samples needs at least one, under one condition; got n={n} and "
            f"{len(conditions)} conditions"
        )
    seed = int(torch.randint(2**31, ()))
    rows = []
    with evaluation_mode(vae):
        for context in conditions.values():
            each = [
                value.expand(n, *value.shape[1:]) if isinstance(value, Tensor) else value
                for value in context
            ]
            with seeded(seed):
                x = mean_of(vae.predictive(n, *each)) if means else vae.sample(n, *each)
            rows.append(fold(x, shape))
    return mosaic(rows, names=list(conditions), scale=scale)
