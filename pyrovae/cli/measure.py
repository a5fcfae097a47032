"""Run `pyrovae evaluate`, `compare`, `report`, `sample` and `reconstruct`."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.cli import comparison_page, page, recipes, sequence_commands, tables
from pyrovae.cli.complaints import INTERRUPTED
from pyrovae.cli.conditions import conditions_by, rows_of
from pyrovae.cli.evaluations import measured_source, save_report
from pyrovae.cli.figures import (
    MAPPED,
    MEASURED,
    assignment_figure,
    held_factors,
    history_figure,
    is_image,
    report_figures,
    save_figures,
    vae_figures,
    walk_figure,
    write_figure,
)
from pyrovae.cli.options import Evaluation, Opened, Reconstructed, Sampled
from pyrovae.cli.sequences import in_rows, is_sequence, per_token
from pyrovae.data import DataSet, Split
from pyrovae.data.images import Shape
from pyrovae.files import write_atomically
from pyrovae.measure.annealing.ais import AIS
from pyrovae.measure.compare import Comparison
from pyrovae.measure.compare import compare as compare_reports
from pyrovae.measure.evaluate import evaluate as measure
from pyrovae.measure.findings import Diagnostic
from pyrovae.measure.fingerprints import fingerprints
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.traverse import traverse
from pyrovae.measure.rank import Ranking, rank
from pyrovae.measure.refinement.gaps import Gaps
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.runs.run import EVALUATION, NEVER_TRAINED
from pyrovae.runs.sources import Source, first
from pyrovae.vae import VAE

__all__ = ["compare", "evaluate", "opened", "reconstruct", "report", "sample", "write_figure"]

WHOLE: Final = 2**53
"""The numbers below which whole numbers are written without a point or an exponent."""

SAMPLES: Final = 64
"""The samples drawn by default."""


def evaluate(folder: Path, options: Evaluation, *, command: Sequence[str]) -> int:
    """Evaluate a run, print the report, and save it with its figures in the run's folder."""
    diagnostics = _diagnostics(options)
    run = Run(folder)
    parameters = run.parameters_hash  # before they are read, as a training may write others
    vae, source, read = opened(run, options, split=options.split)
    said = run.source.met_again(read, options.split)
    if said is not None:
        print(f"pyrovae: warning: {said}", file=sys.stderr)
    data = first(getattr(source.binarized(read), options.split), options.limit)
    held = held_factors(run)
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
        notes = [NEVER_TRAINED] if not run.metrics else []
        notes += [said] if said else []
        if run.table is not None:
            notes.append(tables.in_own_units(run.table, data, report))
        report = replace(report, notes=tuple(notes))
        path = save_report(
            *(report, run, source),
            split=options.split,
            limit=options.limit,
            command=list(command),
            parameters=parameters,
        )
        print(report)
        if run.vocabulary is not None and (told := per_token(report, run.vocabulary)):
            print(told)
        print(f"written: {path}")
        if path.name == EVALUATION:
            done = len(report.elbo.value)
            beside = [value[:done] for value in data.context]
            shape = image_shape(source, None)
            figures = report_figures(report, vae, data.draw()[:done], shape, beside, held)
            save_figures(figures, run, in_place_of=MEASURED)
            print(f"figures in {run.folder / 'figures'}: {', '.join(figures)}")
        else:
            print(
                f"kept: {run.folder / EVALUATION}, which is complete, and its figures; `pyrovae "
                "report` and `pyrovae compare` use it"
            )
    again = f" --recipe {quote(str(options.recipe))}" if options.recipe else ""
    print(f"Next:\n  pyrovae report {quote(str(run.folder))}{again}")
    return INTERRUPTED if report.partial else 0


def compare(folders: Sequence[Path], *, out: Path | None) -> int:
    """Print and draw the comparison of two evaluated runs, or the ranking of several.

    Raises:
        ValueError: for the same run twice, a run without an evaluation, or evaluations of
            different data.
    """
    names = _names(folders)
    reports = dict(zip(names, _evaluations(folders), strict=True))
    found: Comparison | Ranking
    if len(folders) == 2:
        found = compare_reports(*reports.values(), names=(names[0], names[1]))
        figure, name = plots.comparison(found), f"comparison-with-{folders[1].resolve().name}"
    else:
        found = rank(reports)
        figure, name = plots.ranking(found), f"comparison-of-{len(folders)}"
    print(found)
    for model, saved in reports.items():
        if saved.partial:
            print(f"The evaluation of {model} is partial: it was interrupted.")
    if out is not None and out.suffix.lower() == ".html":
        runs = dict(zip(names, map(Run, folders), strict=True))
        written = comparison_page.page(found, runs, reports, figure, out=out)
        write_atomically(out, written.encode())
        print(f"written: {out}")
        return 0
    return write_figure(figure, out, Run(folders[0]), name)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders, or their whole paths if two have one name.

    Raises:
        ValueError: if a folder is given twice.
    """
    whole = [folder.resolve() for folder in folders]
    twice = next((folder for folder in whole if whole.count(folder) > 1), None)
    if twice is not None:
        raise ValueError(f"names must differ; got {str(twice)!r} twice: name each run once")
    names = [folder.name for folder in whole]
    return names if len({*names}) == len(names) else [str(folder) for folder in whole]


def _evaluations(folders: Sequence[Path]) -> list[SavedFinding]:
    """Read the evaluations of runs.

    Raises:
        ValueError: if one has none, or naming the commands if several have none.
    """
    lacking = [folder for folder in folders if not (folder / EVALUATION).exists()]
    if len(lacking) > 1 and all(Run(folder).config for folder in lacking):
        commands = " && ".join(f"pyrovae evaluate {quote(str(folder))}" for folder in lacking)
        raise ValueError(f"{len(lacking)} of the runs have no evaluation: run `{commands}`")
    return [Run(folder).evaluation() for folder in folders]


def report(folder: Path, options: Opened, *, out: Path | None) -> int:
    """Write the report of a run as one HTML page."""
    run = Run(folder)
    saved = run.evaluation()
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    with recipes.running(options.recipe):
        source, data, columns, left_out = _measured_data(options, run, vae, saved)
        held = held_factors(run)
        figures = history_figure(run) | assignment_figure(run)
        x = None if data is None else data.draw()
        shape = None
        with contextlib.suppress(ValueError), seeded(0):
            shape = image_shape(source, lambda: vae.sample(1))
            figures |= vae_figures(vae, data, shape, texts=run.vocabulary is not None)
        beside = data.context if data else ()
        figures |= report_figures(saved, vae, x, shape, beside, held)
        if data is not None and x is not None and not is_sequence(shape):
            few = replace(data, x=x, dynamic=False).take(slice(MAPPED))
            with contextlib.suppress(ValueError), seeded(0):
                walk = traverse(vae, few.x, *few.context, of="prior")
                figures["walk"] = walk_figure(
                    walk, few.x, shape, columns=columns, table=run.table, held=held
                )
        texts = None if data is None else sequence_commands.texts(vae, run.vocabulary, data)
    path = out or run.folder / "report.html"
    written = page.page(run, saved, figures, texts=texts, left_out=left_out, out=path)
    write_atomically(path, written.encode())
    print(f"written: {path}")
    return 0


def sample(folder: Path, options: Sampled) -> int:
    """Draw samples of a run's model: a figure, texts, or a table of other data."""
    run = Run(folder)
    if options.by is not None:
        return _sample_by(run, options, options.by)
    if run.table is not None:
        return tables.sample(run, run.table, options)
    source = run.source
    vae = recipes.load_vae(run, options.recipe, source.shape)
    if is_sequence(source.shape):
        return sequence_commands.sample(run, vae, options)
    beside, columns = _given_to_samples(source, options.number)
    number = options.number or min([SAMPLES, *map(len, beside)])
    with recipes.running(options.recipe), seeded(options.seed):
        shape = image_shape(source, lambda: _one(run, vae, beside))
        if is_image(shape):
            figure = plots.samples(vae, number, shape, *beside, means=options.means)
            return write_figure(figure, options.out, run, "samples")
        rows = vae.sample(number, *beside)
    path = options.out or run.folder / "samples.csv"
    write_atomically(path, _table(rows, columns).encode())
    print(f"written: {path}")
    return 0


def _one(run: Run, vae: VAE, context: Sequence[Tensor]) -> Tensor:
    """Draw one sample, or say that the run has no context to draw it with."""
    try:
        return vae.sample(1, *context)
    except ValueError as error:
        if run.source.name is not None:
            raise
        raise ValueError(
            f"{error}. The run records no data set to take it from: draw samples from Python, "
            f"pyrovae.load({str(run.folder)!r}).sample(n, *context)"
        ) from error


def _sample_by(run: Run, options: Sampled, by: str) -> int:
    """Draw a row of images for each category of a covariate."""
    source = run.source
    if not is_image(source.shape):
        raise ValueError("--by is for images, and the data are none: leave it out")
    read = source.read_data()
    conditions = conditions_by(by, read, rows_of(read, "test"))
    vae = recipes.load_vae(run, options.recipe, source.shape)
    with recipes.running(options.recipe), seeded(options.seed):
        figure = plots.samples_by(
            vae, conditions, options.number or 10, source.shape, means=options.means
        )
    if len(read.test.context) > 1:
        print("Further covariates are those of the first test datum.")
    return write_figure(figure, options.out, run, f"samples-by-{by}")


def _given_to_samples(source: Source, number: int | None) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the context of samples, that of the first test data, and the names of columns.

    Without a number, the context is of as many samples as there are data, at most `SAMPLES`.

    Raises:
        ValueError: if there are fewer test data than samples that are asked for.
    """
    if source.name is None or is_image(source.shape) and "covariates" not in source.reading:
        return [], ()
    data = source.read_data()
    if data.test.context:
        rows_of(data, "test")
    if data.test.context and number is not None and number > len(data.test):
        raise ValueError(
            f"samples take the covariates of the first test data, of which there are "
            f"{len(data.test)}; got {number}: give a smaller -n"
        )
    if data.test.context:
        number = number or min(SAMPLES, len(data.test))
        print(f"The covariates are those of the first {number:,} test data.")
    return [value[:number] for value in data.test.context], data.columns


def _table(rows: Tensor, columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns or [f"x{i}" for i in range(rows.shape[1])])
    writer.writerows([[*map(_written, row)] for row in rows.detach().cpu().numpy()])
    return text.getvalue()


def _written(value: np.floating[Any]) -> str:
    """Return a number with all its digits, and whole numbers without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < WHOLE else str(value)


def reconstruct(folder: Path, options: Reconstructed) -> int:
    """Draw data beside their reconstructions."""
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    shape = image_shape(source, None)
    if is_sequence(shape):
        data = getattr(read, options.split)
        return sequence_commands.reconstruct(run, vae, data, options)
    if not is_image(shape):
        raise ValueError(
            f"the data are {in_rows(shape)}, not images: reconstruct them from Python, "
            f"pyrovae.load({str(folder)!r}).reconstruct(x)"
        )
    data = first(getattr(source.binarized(read), options.split), options.number or 8)
    with recipes.running(options.recipe), seeded(options.seed):
        x = data.draw(seed=options.seed)
        figure = plots.reconstructions(vae, x, shape, *data.context)
    return write_figure(figure, options.out, run, "reconstructions")


def opened(run: Run, options: Opened, *, split: str) -> tuple[VAE, Source, DataSet]:
    """Return a run's VAE, and its data set or the one that is given, before it is binarized.

    Raises:
        ValueError: if the split has no rows, and as `Source.read_data`.
    """
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    source = run.source.given(options.data, options.root, vae=vae, split=split)
    read = source.read_data(download=options.root is not None)
    rows_of(read, split)
    return vae, replace(source, shape=read.shape), read


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
) -> tuple[Source, Split | None, tuple[str, ...], list[str]]:
    """Return the data of an evaluation and their columns, or the reason why none are shown."""
    recorded, split = measured_source(saved, run.config)
    if options.data is None and recorded.name is None:
        why = "The files record no data set, so no data are shown: name it with --data."
        return recorded, None, (), [why]
    source = recorded.given(options.data, options.root, vae=vae, split=split)
    loaded = source.load(download=options.root is not None)
    data = first(getattr(loaded, split), saved.said["data"])
    met = saved.fingerprint
    if met is not None and not torch.equal(met[:, 0], fingerprints(data.draw())[:, 0]):
        why = f"The data of {source.name} are not those of the evaluation, and are not shown."
        return source, None, (), [why]
    return replace(source, shape=loaded.shape), data, loaded.columns, []


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
