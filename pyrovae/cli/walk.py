"""Run `pyrovae walk`, `interpolate`, `manifold` and `map`: figures of a run's latent space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from pyrovae import plots
from pyrovae.cli import recipes
from pyrovae.cli.complaints import said
from pyrovae.cli.conditions import labels_by
from pyrovae.cli.figures import MAPPED, held_factors, is_image, walk_figure
from pyrovae.cli.measure import image_shape, opened, write_figure
from pyrovae.cli.sequences import in_rows, is_sequence
from pyrovae.cli.walk_options import Interpolated, Mapped, Planned, Walked
from pyrovae.data.reading import extra
from pyrovae.measure.latents.interpolate import interpolate as interpolated
from pyrovae.measure.latents.manifold import manifold as decoded_plane
from pyrovae.measure.latents.paths import linear, spherical
from pyrovae.measure.latents.quantiles import normal_levels
from pyrovae.measure.latents.traverse import MOST, Traversal, traverse
from pyrovae.plots.image_grid import value_range
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.weights.sites import UndefinedMean

__all__ = ["interpolate", "latent_map", "manifold", "walk"]

FRAMES: Final = 25
"""The levels of an animated walk: -3, -2.75, ..., 3 of a standard normal."""

PATHS: Final = {"linear": linear, "spherical": spherical}


def walk(folder: Path, options: Walked) -> int:
    """Draw the means of p(x | z) along each latent dimension, and print their KL."""
    run = Run(folder)
    held = held_factors(run)
    vae, source, read = opened(run, options, split=options.split)
    data = getattr(source.binarized(read), options.split)
    shape = image_shape(source, None)
    if options.gif and not is_image(shape):
        raise ValueError("--gif animates images, and the data are none: leave it out")
    if is_sequence(shape):
        raise ValueError(
            "a walk shows images or the columns of rows, and the data are sequences: decode the "
            f"walk from Python, pyrovae.traverse(pyrovae.load({str(folder)!r}), x, mask)"
        )
    with recipes.running(options.recipe):
        x = data.draw()

        def along(levels: tuple[float, ...] | None) -> Traversal:
            with seeded(options.seed):
                return traverse(
                    vae,
                    x,
                    *data.context,
                    datum=options.datum,
                    dimensions=options.number or MOST,
                    of="prior",
                    quantiles=levels,
                )

        found = along(None)
        print(_table(found, held))
        figure = walk_figure(found, x, shape, columns=read.columns, table=read.table, held=held)
        write_figure(figure, options.out, run, "walk")
        if options.gif:
            path = (options.out or run.figure("walk")).with_suffix(".gif")
            frames = along(normal_levels(FRAMES))
            scale = value_range([x])
            plots.save(plots.animation(frames, shape, held=held, scale=scale), path)
            print(f"written: {path}")
    return 0


def _table(found: Traversal, held: Mapping[str, str]) -> str:
    """Return the dimensions with their KL in nats and the factor held."""
    lines = [f"{'dimension':<12}{'KL, nats':>9}{'  factor' if held else ''}"]
    for name, kl in zip(found.names, found.kl.tolist(), strict=True):
        shown = "unknown" if math.isnan(kl) else f"{kl:.3f}"
        lines.append(f"{name:<12}{shown:>9}  {held.get(name, '')}".rstrip())
    if found.order == "activity":
        lines.append(
            "Not every dimension has a KL in closed form: they are sorted by activity, the "
            "variance of their posterior means."
        )
    return "\n".join(lines)


def interpolate(folder: Path, options: Interpolated, *, rows: tuple[int, int]) -> int:
    """Draw the means of p(x | z) on the line and on the great circle between two data."""
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    data = getattr(source.binarized(read), options.split)
    shape = image_shape(source, None)
    if not is_image(shape):
        raise ValueError(
            f"the data are {in_rows(shape)}, not images: interpolate from Python, "
            f"pyrovae.interpolate(pyrovae.load({str(folder)!r}), x[[0, 5]])"
        )
    for row in rows:
        if not 0 <= row < len(data):
            raise ValueError(
                f"the {options.split} split has the rows 0 to {len(data) - 1:,}; got {row}"
            )
    both = torch.tensor(rows)
    x, context = data.draw()[both], [value[both] for value in data.context]
    found, refused = {}, []
    with recipes.running(options.recipe):
        for name, path in PATHS.items():
            try:
                with seeded(options.seed):
                    found[name] = interpolated(
                        vae, x, *context, steps=options.number or 11, path=path
                    )
            except UndefinedMean:
                raise
            except ValueError as error:
                refused.append((name, error))
    if not found:
        raise refused[0][1]
    for name, why in refused:
        print(f"The {name} path is left out: {said(why)}")
    if context:
        print(f"All steps are decoded with the covariates of row {rows[0]}.")
    return write_figure(
        plots.interpolations(found, shape, scale=value_range([data.x])),
        *(options.out, run, f"interpolation-{rows[0]}-{rows[1]}"),
    )


def manifold(folder: Path, options: Planned) -> int:
    """Draw the means of p(x | z) over the plane of the prior."""
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    shape = image_shape(source, None)
    if not is_image(shape):
        raise ValueError(
            f"the data are {in_rows(shape)}, not images: decode the plane from Python, "
            f"pyrovae.manifold(pyrovae.load({str(folder)!r}))"
        )
    data = getattr(read, options.split)
    context = [value[:1] for value in data.context]
    if context:
        print(f"All points are decoded with the covariates of the first {options.split} datum.")
    with recipes.running(options.recipe), seeded(options.seed):
        found = decoded_plane(
            vae, *context, side=options.number or 20, dimensions=options.dimensions or None
        )
    figure = plots.manifold(found, shape, scale=value_range([data.x]))
    return write_figure(figure, options.out, run, "manifold")


def latent_map(folder: Path, options: Mapped) -> int:
    """Draw the posterior means of data in a plane, colored by class or condition."""
    run = Run(folder)
    embedding = _embedding(options.embedding, options.seed)
    vae, source, read = opened(run, options, split=options.split)
    data = getattr(source.binarized(read), options.split)
    mapped = data.take(slice(options.number or MAPPED))
    x = data.draw()[: len(mapped)]
    labels = labels_by(options.by, read, mapped)
    with recipes.running(options.recipe), seeded(options.seed):
        figure = plots.latent_map(vae, x, labels, *mapped.context, embedding=embedding)
    return write_figure(figure, options.out, run, "map")


def _embedding(name: str, seed: int) -> Any:
    """Return the object that maps posterior means to a plane; None for principal components.

    Raises:
        ValueError: if UMAP is not installed.
    """
    if name == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(random_state=seed % 2**32)
    if name == "umap":
        return extra("umap", "umap").UMAP(random_state=seed % 2**32, n_jobs=1)
    return None
