"""Run `pyrovae evaluate`, `compare`, `report`, `sample` and `reconstruct`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyrovae import plots
from pyrovae.cli import page, recipes
from pyrovae.cli.complaints import INTERRUPTED
from pyrovae.cli.evaluations import measured_source, save_report
from pyrovae.cli.figures import (
    MEASURED,
    history_figure,
    report_figures,
    save_figures,
    vae_figures,
)
from pyrovae.cli.grammar import Drawn, Evaluation, Opened, Reconstructed
from pyrovae.data import Split
from pyrovae.data.images import Shape
from pyrovae.files import write_atomically
from pyrovae.measure.annealing.ais import AIS
from pyrovae.measure.compare import compare as compare_reports
from pyrovae.measure.evaluate import evaluate as measure
from pyrovae.measure.findings import Diagnostic
from pyrovae.measure.fingerprints import fingerprints
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.refinement.gaps import Gaps
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.runs.run import EVALUATION, NEVER_TRAINED
from pyrovae.runs.sources import Source, first
from pyrovae.vae import VAE

__all__ = ["compare", "evaluate", "reconstruct", "report", "sample"]


def evaluate(folder: Path, options: Evaluation, *, command: Sequence[str]) -> int:
    """Evaluate a run, print the report, and save it with its figures in the run's folder."""
    diagnostics = _diagnostics(options)
    run = Run(folder)
    vae, source, data = _opened(run, options, split=options.split, limit=options.limit)
    run.check_writable()
    with recipes.running(options.recipe):
        report = measure(
            vae,
            data,
            particles=options.particles,
            ks=options.ks,
            seed=options.seed,
            compile=False if options.no_compile else None,
            diagnostics=diagnostics,
        )
        if not run.metrics:
            report = replace(report, notes=(NEVER_TRAINED,))
        path = save_report(
            report, run, source, split=options.split, limit=options.limit, command=list(command)
        )
        print(report)
        print(f"written: {path}")
        if path.name == EVALUATION:
            x = data.draw()[: len(report.elbo.value)]
            figures = report_figures(report, vae, x, image_shape(source, None))
            save_figures(figures, run, in_place_of=MEASURED)
            print(f"figures in {run.folder / 'figures'}: {', '.join(figures)}")
        else:
            print(
                f"kept: {run.folder / EVALUATION}, which is complete, and its figures; `pyrovae "
                "report` and `pyrovae compare` use it"
            )
    again = f" --recipe {options.recipe}" if options.recipe else ""
    print(f"Next:\n  pyrovae report {run.folder}{again}")
    return INTERRUPTED if report.partial else 0


def compare(first: Path, second: Path, *, out: Path | None) -> int:
    """Print and draw the comparison of two evaluated runs."""
    folders = [first.resolve(), second.resolve()]
    a, b = (folder.name for folder in folders)
    names = (a, b) if a != b else (str(folders[0]), str(folders[1]))
    reports = [Run(folder).evaluation() for folder in (first, second)]
    found = compare_reports(*reports, names=names)
    print(found)
    for name, saved in zip(names, reports, strict=True):
        if saved.partial:
            print(f"The evaluation of {name} is partial: it was interrupted.")
    return _write_figure(plots.comparison(found), out, Run(first), f"comparison-with-{b}")


def report(folder: Path, options: Opened, *, out: Path | None) -> int:
    """Write the report of a run as one HTML page."""
    run = Run(folder)
    saved = run.evaluation()
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    with recipes.running(options.recipe):
        source, data, left_out = _measured_data(options, run, vae, saved)
        figures = history_figure(run)
        x = None if data is None else data.draw()
        shape = None
        with contextlib.suppress(ValueError), seeded(0):
            shape = image_shape(source, lambda: vae.sample(1))
            figures |= vae_figures(vae, data, shape)
        figures |= report_figures(saved, vae, x, shape)
    path = out or run.folder / "report.html"
    write_atomically(path, page.page(run, saved, figures, left_out=left_out).encode())
    print(f"written: {path}")
    return 0


def sample(folder: Path, options: Drawn) -> int:
    """Draw samples of a run's model."""
    run = Run(folder)
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    with recipes.running(options.recipe), seeded(options.seed):
        shape = image_shape(run.source, lambda: vae.sample(1))
        figure = plots.samples(vae, options.number or 64, shape)
    return _write_figure(figure, options.out, run, "samples")


def reconstruct(folder: Path, options: Reconstructed) -> int:
    """Draw data beside their reconstructions."""
    run = Run(folder)
    vae, source, data = _opened(run, options, split=options.split, limit=options.number or 8)
    with recipes.running(options.recipe), seeded(options.seed):
        x = data.draw(seed=options.seed)
        figure = plots.reconstructions(vae, x, image_shape(source, None))
    return _write_figure(figure, options.out, run, "reconstructions")


def _opened(
    run: Run, options: Opened, *, split: str, limit: int | None
) -> tuple[VAE, Source, Split]:
    """Return a run's VAE, and its data set or the one that is given."""
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    source = run.source.given(options.data, options.root, vae=vae)
    data = source.load(download=options.root is not None)
    return vae, replace(source, shape=data.shape), first(getattr(data, split), limit)


def _diagnostics(options: Evaluation) -> list[Diagnostic]:
    """Return the diagnostics that were asked for."""
    if options.ais is None and (options.ais_start or options.ais_limit):
        raise ValueError("--ais-start and --ais-limit need --ais: add --ais T")
    if options.gaps_limit and not options.gaps:
        raise ValueError("--gaps-limit needs --gaps: add --gaps")
    found: list[Diagnostic] = []
    if options.ais is not None:
        settings = {"limit": options.ais_limit, "start": options.ais_start}
        found.append(AIS(options.ais, **_given(settings)))
    if options.gaps:
        found.append(Gaps(**_given({"limit": options.gaps_limit})))
    if options.latents:
        found.append(Latents())
    return found


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _measured_data(
    options: Opened, run: Run, vae: VAE, saved: SavedFinding
) -> tuple[Source, Split | None, list[str]]:
    """Return the data of an evaluation, or the reason why they are not shown."""
    recorded, split = measured_source(saved, run.config)
    if options.data is None and recorded.name is None:
        why = "The files record no data set, so no data are shown: name it with --data."
        return recorded, None, [why]
    source = recorded.given(options.data, options.root, vae=vae)
    loaded = source.load(download=options.root is not None)
    data = first(getattr(loaded, split), saved.said["data"])
    met = saved.fingerprint
    if met is not None and not torch.equal(met[:, 0], fingerprints(data.draw())[:, 0]):
        why = f"The data of {source.name} are not those of the evaluation, and are not shown."
        return source, None, [why]
    return replace(source, shape=loaded.shape), data, []


def image_shape(source: Source, draw: Callable[[], Any] | None) -> Shape:
    """Return the recorded shape of an image, or that of a draw.

    A flat draw is taken for a square image.

    Raises:
        ValueError: if none is recorded and the size of a flat draw is no square number.
    """
    if source.shape is not None:
        return source.shape
    if draw is not None:
        drawn = draw()[0]
        if drawn.ndim == 3:
            return drawn.shape[0], drawn.shape[1], drawn.shape[2]
        size = drawn.numel()
        side = math.isqrt(size)
        if side * side == size:
            return 1, side, side
    raise ValueError("the run records no shape of an image: it was not made by `pyrovae train`")


def _write_figure(figure: Any, out: Path | None, run: Run, name: str) -> int:
    path = out or run.figure(name)
    plots.save(figure, path)
    print(f"written: {path}")
    return 0
