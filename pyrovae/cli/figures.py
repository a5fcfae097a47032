"""Draw the figures of a run, by name: its training, its VAE and its evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import plots
from pyrovae.cli.conditions import labels_of
from pyrovae.cli.sequences import PANELS, is_sequence, moves, reconstructed, sampled
from pyrovae.data.datasets import Split
from pyrovae.data.images import Shape
from pyrovae.data.table import Table
from pyrovae.measure.latents.plane import latent_plane
from pyrovae.measure.latents.traverse import Traversal, traverse
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.plots.image_grid import value_range
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.train.callbacks import Epoch, History
from pyrovae.vae import VAE
from pyrovae.weights.sites import UndefinedMean

__all__ = [
    "MEASURED",
    "Figures",
    "held_factors",
    "assignment_figure",
    "history_figure",
    "is_image",
    "report_figures",
    "save_figures",
    "vae_figures",
    "walk_figure",
    "write_figure",
]

Figures = dict[str, Figure]

MEASURED: Final = ("bounds", "kl_per_dimension", "sandwich", "gaps", "holes", "traversals")
"""The figures of an evaluation. A new evaluation replaces them."""

SAMPLES: Final = 100
SHOWN: Final = 20
MAPPED: Final = 2000


def history_figure(run: Run) -> Figures:
    """Draw the training history of a run, if it has one.

    Raises:
        ValueError: if another version wrote the metrics.
    """
    try:
        epochs = [Epoch(**_numbers(line)) for line in run.metrics]
    except TypeError as error:
        raise ValueError(
            f"{run.folder / 'metrics.jsonl'} has the columns of another version: {error}"
        ) from error
    if not epochs:
        return {}
    named = (run.config.get("experiment") or {}).get("objective", {}).get("name")
    objective = f"objective: {named}" if named else "objective"
    return {"history": plots.history(History(epochs, objective=objective))}


def assignment_figure(run: Run) -> Figures:
    """Draw which unit holds which factor, if `pyrovae factors` found it for this run.

    Raises:
        ValueError: if its file is damaged.
    """
    found = run.assignment()
    return {} if found is None else {"assignment": plots.assignment(found)}


def vae_figures(
    vae: VAE, split: Split | None, shape: tuple[int, ...] | None, *, texts: bool = False
) -> Figures:
    """Draw samples and, given data, reconstructions and the map of the latents.

    Samples and reconstructions are left out if p(x | z) has no mean, or the data are neither
    images nor sequences of notes or numbers.

    Args:
        vae: the VAE.
        split: the data, if there are any.
        shape: (channels, height, width) of an image, (D,), or (T, D) of sequences.
        texts: whether sequences are texts, which are no figures.
    """
    if split is not None and is_sequence(shape):
        return _of_sequences(vae, split, texts=texts)
    found = {}
    number, beside = SAMPLES, split.context if split else ()
    if split and beside:
        number = min(SAMPLES, len(split))
    if is_image(shape):
        with seeded(0), contextlib.suppress(UndefinedMean):
            given = (value[:number] for value in beside)
            scale = value_range([split.x]) if split else None
            found["samples"] = plots.samples(vae, number, shape, *given, scale=scale)
    if split is None:
        return found
    if is_image(shape):
        with seeded(0), contextlib.suppress(UndefinedMean):
            given = (value[:SHOWN] for value in beside)
            x = split.draw()[:SHOWN]
            found["reconstructions"] = plots.reconstructions(vae, x, shape, *given)
    return found | _map(vae, split)


def _of_sequences(vae: VAE, split: Split, *, texts: bool) -> Figures:
    """Draw samples and reconstructions, and the map if a sequence is one point of the latents."""
    few, found = split.take(slice(PANELS)), {}
    if not texts:
        with seeded(0), contextlib.suppress(UndefinedMean):
            found["samples"] = sampled(vae, few, means=True)
        with seeded(0), contextlib.suppress(UndefinedMean):
            found["reconstructions"] = reconstructed(vae, few)
    with contextlib.suppress(ValueError):
        if not moves(vae, few):
            return found | _map(vae, split)
    return found


def _map(vae: VAE, split: Split) -> Figures:
    """Draw the map of the latents, if the VAE has one."""
    x, mapped = split.draw()[:MAPPED], split.take(slice(MAPPED))
    labels, context = labels_of(mapped), mapped.context
    return _possible({"latents": lambda: plots.latent_map(vae, x, labels, *context)})


def walk_figure(
    found: Traversal,
    x: Tensor,
    shape: Shape | None,
    *,
    columns: Sequence[str] = (),
    table: Table | None = None,
    held: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a walk: images on the scale of the data, or how each column of other data changes.

    Args:
        found: the walk.
        x: the data.
        shape: (channels, height, width) of an image, or (D,).
        columns: the names of the columns of x.
        table: the schema of a table, whose numbers are standardized.
        held: the factors that each dimension holds, as of `held_factors`.
    """
    if is_image(shape):
        return plots.traversals(found, shape, held=held, scale=value_range([x]))
    unit = "units of x" if table is None else "numbers in standard deviations"
    return plots.profiles(found, columns, held=held, unit=unit)


def is_image(shape: tuple[int, ...] | None) -> TypeGuard[Shape]:
    """Return whether a shape is that of an image that figures can show."""
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3)


def held_factors(run: Run) -> dict[str, str]:
    """Return the factors that each dimension holds as text, as `pyrovae factors` found.

    Raises:
        ValueError: if the run's file of factors is damaged.
    """
    assignment = run.assignment()
    return {} if assignment is None else assignment.labels


def report_figures(
    report: Report | SavedFinding,
    vae: VAE,
    x: Tensor | None,
    shape: Shape | None,
    context: Sequence[Tensor] = (),
    held: Mapping[str, str] | None = None,
) -> Figures:
    """Draw the figures of a report and of its diagnostics.

    Args:
        report: a report of `evaluate`, or one that was read from a file.
        vae: the VAE that was evaluated.
        x: the data that it was evaluated on; None leaves out the figures of the latents.
        shape: (channels, height, width) of an image; others leave out traversals.
        context: the context of the data.
        held: the factor that each dimension holds, as of `held_factors`.
    """
    found = report.findings
    wanted: dict[str, Callable[[], Figure]] = {
        "bounds": lambda: plots.bounds(report),
        "kl_per_dimension": lambda: plots.kl_per_dimension(report),
    }
    if "ais" in found:
        wanted["sandwich"] = lambda: plots.sandwich(found["ais"])
    if "gaps" in found:
        wanted["gaps"] = lambda: plots.gaps(found["gaps"])
    if "latents" in found and x is not None:
        wanted["holes"] = lambda: plots.holes(latent_plane(vae, x, *context))
        if is_image(shape):
            wanted["traversals"] = lambda: plots.traversals(
                traverse(vae, x, *context), shape, held=held, scale=value_range([x])
            )
    return _possible(wanted)


def save_figures(figures: Figures, run: Run, *, in_place_of: Iterable[str] = ()) -> None:
    """Write figures to a run's folder, and remove the figures `in_place_of` that are not drawn."""
    for name in set(in_place_of) - set(figures):
        run.figure(name).unlink(missing_ok=True)
    for name, figure in figures.items():
        plots.save(figure, run.figure(name))


def write_figure(figure: Any, out: Path | None, run: Run, name: str) -> int:
    """Write a figure to a file, by default in the run's folder, and print its path."""
    path = out or run.figure(name)
    plots.save(figure, path)
    print(f"written: {path}")
    return 0


def _possible(wanted: Mapping[str, Callable[[], Figure]]) -> Figures:
    """Draw each figure at the same seed, and leave out those that a VAE does not have.

    A guide with several sites has no single latent map, and one dimension has no plane.
    """
    found = {}
    for name, draw in wanted.items():
        with seeded(0), contextlib.suppress(ValueError):
            found[name] = draw()
    return found


def _numbers(line: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in line.items()}
