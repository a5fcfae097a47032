"""Every figure is a function of something measured, and returns a figure that nothing else owns.

The functions build `matplotlib.figure.Figure` objects directly: they open no window, register
nothing with pyplot and change no setting of matplotlib. A notebook shows the figure that a cell
returns; `save` writes it as PNG. Colours can be told apart by colour-blind readers, and markers
repeat what the colours say. Bounds, rates and distortions are in nats per datum.

Images are flat vectors, as everywhere in the library: `shape` is (channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from torch import Tensor

from pyrovae.bounds import Estimate
from pyrovae.callbacks import History
from pyrovae.evaluation import Report
from pyrovae.mosaics import (
    PIXELS_PER_INCH,
    WIDTH,
    PortableFigure,
    Shape,
    columns,
    fold,
    mosaic,
    png,
)
from pyrovae.runs import write_atomically
from pyrovae.vae import VAE, evaluation_mode

TRAIN: Final = "#0072B2"
VALIDATION: Final = "#D55E00"
OBJECTIVE: Final = "#8C8C8C"
CLASSES: Final = (
    *("#332288", "#E69F00", "#44AA99", "#CC6677", "#117733"),
    *("#56B4E9", "#882255", "#999933", "#AA4499", "#777777"),
)
"""Ten colours after Tol's muted scheme, told apart with any common colour-blindness."""

MARKERS: Final = "o^sDvPX"
_DASHED: Final = (0, (4, 2))

MOMENT_DRAWS: Final = 100
"""Draws for the mean of a posterior that has none in closed form."""


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, shape: Shape, *context: Any) -> Figure:
    """Draw data above their reconstructions, the mean of p(x | z) at one z ~ q(z | x).

    Images with values in [0, 1] are drawn on that scale; others share the scale from the least
    to the greatest value, which the figure states.

    Args:
        vae: the VAE.
        x: the data to show, [N, C * H * W], ten in a row.
        shape: (C, H, W), with one channel (grey) or three (red, green, blue).
        *context: as for `vae.reconstruct`.

    Raises:
        ValueError: if x is empty or not of this shape.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> figure = pv.plots.reconstructions(vae, torch.zeros(5, 64), (1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['data', 'reconstruction']
    """
    data = fold(x, shape)
    with evaluation_mode(vae):
        means = fold(vae.reconstruct(x, *context), shape)
    columns = min(len(data), 10)
    rows: list[Tensor] = []
    for pair in zip(data.split(columns), means.split(columns), strict=True):
        rows += pair
    return mosaic(rows, names=["data", "reconstruction"] * (len(rows) // 2))


@torch.no_grad()
def samples(vae: VAE, n: int, shape: Shape, *context: Any) -> Figure:
    """Draw the means of p(x | z) at n draws from the prior, z ~ p(z).

    Args:
        vae: the VAE.
        n: how many.
        shape: as for `reconstructions`.
        *context: as for `vae.predictive`.

    Raises:
        ValueError: if n is below 1, or what the VAE draws is not of this shape.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> len(pv.plots.samples(vae, 16, (1, 8, 8)).axes[0].images)
        1
    """
    if n < 1:
        raise ValueError(f"a figure of samples needs at least one; got n={n}")
    with evaluation_mode(vae):
        means = fold(vae.predictive(n, *context).mean, shape)
    return mosaic(list(means.split(columns(n))), names=[])


def history(history: History) -> Figure:
    """Draw the ELBO and its two parts, rate and distortion, against the epoch.

    The first panel also shows the objective by its name, what the steps climbed, averaged over
    each epoch: with a KL weight or another loss it is not the ELBO.

    Args:
        history: as returned by `fit`.

    Raises:
        ValueError: if the history has no epoch.

    Example:
        >>> import pyrovae as pv
        >>> values = dict.fromkeys(pv.callbacks.Epoch.__annotations__, 1.0)
        >>> trained = pv.History([pv.callbacks.Epoch(**values)])
        >>> [axes.get_title(loc="left") for axes in pv.plots.history(trained).axes]
        ['ELBO', 'rate', 'distortion']
    """
    if not history.epochs:
        raise ValueError("the history has no epoch to draw: train for at least one")
    epochs = history.column("epoch")
    figure = _figure(WIDTH, 2.5)
    panels = figure.subplots(1, 3)
    objective = [-loss for loss in history.column("loss")]
    panels[0].plot(epochs, objective, color=OBJECTIVE, linestyle=_DASHED, label=history.objective)
    for axes, name in zip(panels, ("elbo", "rate", "distortion"), strict=True):
        for prefix, colour, marker in (("", TRAIN, "o"), ("validation_", VALIDATION, "s")):
            values = history.column(prefix + name)
            if any(math.isfinite(value) for value in values):
                label = "validation" if prefix else "training data"
                size = 3.5 if len(epochs) <= 30 else 0
                axes.plot(
                    epochs, values, color=colour, marker=marker, markersize=size, label=label
                )
        axes.set_title("ELBO" if name == "elbo" else name, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _clean(axes)
    panels[0].set_ylabel("nats per datum")
    panels[0].legend(frameon=False, fontsize=8.5, loc="lower right")
    return figure


def bounds(report: Report) -> Figure:
    """Draw the importance-weighted bounds against k; at k = 1 stands the ELBO.

    The bars are one standard error over particles to either side. The error over data is common
    to all points, since they are measured on the same data, and would drown their differences:
    the figure states it instead.

    Args:
        report: as returned by `evaluate`.

    Raises:
        ValueError: if the report has no importance-weighted bound.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> figure = pv.plots.bounds(pv.evaluate(vae, torch.zeros(5, 64), particles=100))
        >>> figure.axes[0].get_xlabel()
        'particles in the bound, k'
    """
    if not report.iwae:
        raise ValueError(
            "the report has no importance-weighted bound to draw: evaluate with two particles or "
            "more, or with ks"
        )
    estimates = {1: report.elbo} | report.iwae
    ks = sorted(estimates)
    figure = _figure(0.7 * WIDTH, 3.2)
    axes = figure.subplots()
    axes.errorbar(
        ks,
        [estimates[k].mean for k in ks],
        yerr=[_known(estimates[k].error_over_particles) for k in ks],
        color=TRAIN,
        marker="o",
        markersize=4.5,
        capsize=4,
        label=_errors(estimates[ks[-1]]),
    )
    _particle_axis(axes, ks)
    axes.set_ylabel("bound on log p(x), nats per datum")
    title = f"{len(report.elbo.value):,} data, {report.particles:,} particles"
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    _clean(axes)
    return figure


@torch.no_grad()
def latent_map(
    vae: VAE, x: Tensor, labels: Tensor | Sequence[int], *context: Any, site: str | None = None
) -> Figure:
    """Draw the posterior mean of a latent site for each datum, coloured by label.

    Two dimensions are drawn as they are; of more, the first two principal components of the
    posterior means; of one, the mean against the posterior's standard deviation.

    Args:
        vae: the VAE.
        x: data [N, ...].
        labels: N whole numbers.
        *context: as for `vae.encode`.
        site: the latent site, where the guide has several.

    Raises:
        ValueError: if there is not one label for each datum, and as `vae.encode`.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> figure = pv.plots.latent_map(vae, torch.rand(6, 64).round(), [0, 1, 2, 0, 1, 2])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['0', '1', '2']
    """
    classes = torch.as_tensor(labels).detach().cpu()
    if classes.shape != (len(x),):
        raise ValueError(
            f"the map needs one label for each of the {len(x)} data; got labels of shape "
            f"{tuple(classes.shape)}"
        )
    with evaluation_mode(vae):
        points, names = _plane(vae.encode(x, *context, site=site), len(x))
    figure = _figure(0.8 * WIDTH, 0.66 * WIDTH)
    axes = figure.subplots()
    same_unit = "deviation" not in names[1]
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
    legend: Any = figure.legend(
        title="label", loc="outside right center", frameon=False, handletextpad=0.2
    )
    for handle in legend.legend_handles:
        handle.set_sizes([30.0])
    _clean(axes)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG: whole, or not at all.

    Args:
        figure: any figure of matplotlib's.
        path: a file name that ends in .png; its folder is made.

    Raises:
        ValueError: for another ending.
        OSError: if it cannot be written; a file that was there stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), Path(folder) / "empty.png")
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"figures are written as PNG; got the name '{path.name}': end it in .png")
    write_atomically(path, png(figure))


def _figure(width: float, height: float) -> Figure:
    return PortableFigure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#666666")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(9.5)


def _plane(posterior: Any, n: int) -> tuple[Tensor, list[str]]:
    """Return [N, 2] and the names of the two axes."""
    means, deviations = (moment.cpu().double().reshape(n, -1) for moment in _moments(posterior))
    if means.shape[1] == 1:
        names = ["posterior mean of $z$", "posterior standard deviation of $z$"]
        return torch.cat([means, deviations], 1), names
    if means.shape[1] == 2:
        return means, ["posterior mean of $z_1$", "posterior mean of $z_2$"]
    centred = means - means.mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    share = spread.square() / spread.square().sum().clamp(min=1e-300)
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return centred @ (signs * axes)[:2].T, [
        f"posterior means, {order} component ({100 * part:.0f}% of variance)"
        for order, part in zip(("first", "second"), share.tolist(), strict=False)
    ]


def _moments(posterior: Any) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, from draws where they are not known."""
    try:
        return posterior.mean, posterior.stddev
    except NotImplementedError:
        draws = posterior.sample((MOMENT_DRAWS,))
        return draws.mean(0), draws.std(0)


def _particle_axis(axes: Any, ks: list[int]) -> None:
    """Make x logarithmic, its ticks at the k drawn, or at powers of ten where they crowd."""
    crowded = any(following < 2.2 * k for k, following in zip(ks, ks[1:], strict=False))
    ticks = [10**i for i in range(len(str(ks[-1])))] if crowded else ks
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda k, _: "1\n(ELBO)" if k == 1 else f"{k:,.0f}")
    )
    axes.set_xlabel("particles in the bound, k")


def _errors(estimate: Estimate) -> str:
    label = "bars: ± 1 standard error over particles"
    if math.isnan(estimate.error_over_data):
        return label
    return f"{label}\n(over data: ± {estimate.error_over_data:.2g}, common to all points)"


def _known(error: float) -> float:
    """Return an error bar; none where one particle cannot tell."""
    return 0.0 if math.isnan(error) else error
