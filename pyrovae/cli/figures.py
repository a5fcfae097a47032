"""The figures of a run by their names: of its training, of its VAE, and of what was measured."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import plots
from pyrovae.data.datasets import Split
from pyrovae.data.images import Shape
from pyrovae.measure.latents.plane import latent_plane
from pyrovae.measure.latents.traverse import traverse
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.train.callbacks import Epoch, History
from pyrovae.vae import VAE
from pyrovae.weights.sites import UndefinedMean

Figures = dict[str, Figure]

MEASURED: Final = ("bounds", "kl_per_dimension", "sandwich", "gaps", "holes", "traversals")
"""The figures that go with an evaluation, and are out of date once there is another."""

SAMPLES: Final = 100
SHOWN: Final = 20
MAPPED: Final = 2000


def history_figure(run: Run) -> Figures:
    """Draw the history that a run's folder holds, if it was trained."""
    try:
        epochs = [Epoch(**_numbers(line)) for line in run.metrics]
    except TypeError as error:
        raise ValueError(
            f"{run.folder / 'metrics.jsonl'} has other columns than this version writes: {error}"
        ) from error
    if not epochs:
        return {}
    named = (run.config.get("experiment") or {}).get("objective", {}).get("name")
    objective = f"objective: {named}" if named else "objective"
    return {"history": plots.history(History(epochs, objective=objective))}


def vae_figures(vae: VAE, split: Split | None, shape: Shape) -> Figures:
    """Draw samples and, of data, reconstructions and the latent map.

    Where p(x | z) has no mean there are no images to show of it.
    """
    found = {}
    with seeded(0), contextlib.suppress(UndefinedMean):
        found["samples"] = plots.samples(vae, SAMPLES, shape)
    if split is None:
        return found
    x, labels = split.draw(), split.labels[:MAPPED]
    with seeded(0), contextlib.suppress(UndefinedMean):
        found["reconstructions"] = plots.reconstructions(vae, x[:SHOWN], shape)
    return found | _possible({"latents": lambda: plots.latent_map(vae, x[:MAPPED], labels)})


def report_figures(
    report: Report | SavedFinding, vae: VAE, x: Tensor | None, shape: Shape | None
) -> Figures:
    """Draw what a report and its findings have a figure for.

    Args:
        report: of `evaluate`, or read from its files.
        vae: the VAE that was measured.
        x: the data that it was measured on; without them there is no figure of holes.
        shape: of an image; without it there are no traversals.
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
        wanted["holes"] = lambda: plots.holes(latent_plane(vae, x))
        if shape is not None:
            wanted["traversals"] = lambda: plots.traversals(traverse(vae, x), shape)
    return _possible(wanted)


def save_figures(figures: Figures, run: Run, *, in_place_of: Iterable[str] = ()) -> None:
    """Write figures into a run's folder, and remove those of an earlier measurement."""
    for name in set(in_place_of) - set(figures):
        run.figure(name).unlink(missing_ok=True)
    for name, figure in figures.items():
        plots.save(figure, run.figure(name))


def _possible(wanted: Mapping[str, Callable[[], Figure]]) -> Figures:
    """Draw each at the same seed; a VAE for which there is no such figure goes without it.

    A guide of several sites has no one latent map, one of a single dimension no plane.
    """
    found = {}
    for name, draw in wanted.items():
        with seeded(0), contextlib.suppress(ValueError):
            found[name] = draw()
    return found


def _numbers(line: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in line.items()}
