"""Run `pyrovae impute`, and `pyrovae sample` for a run that was trained on a frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from pyrovae.cli import recipes
from pyrovae.cli.conditions import rows_of
from pyrovae.cli.options import Imputed, Sampled
from pyrovae.data import Reading, Split, Table, write_frame
from pyrovae.data.columns import covariate
from pyrovae.data.frame_files import check_suffix
from pyrovae.data.frames import read_frame, without_index, words_of
from pyrovae.measure.impute_table import impute_table
from pyrovae.measure.report import Report
from pyrovae.randomness import seeded
from pyrovae.runs import Run

__all__ = ["impute", "in_own_units", "sample"]

ROWS: Final = 100
"""The number of rows that `pyrovae sample` draws by default."""


def impute(folder: Path, options: Imputed) -> int:
    """Write a frame with its missing values imputed by a run's model."""
    run = Run(folder)
    table = run.table
    if table is None:
        raise ValueError(
            f"the run in {folder} was not trained on a table of mixed columns: impute x from "
            "Python, pyrovae.impute(vae, x, mask)"
        )
    check_suffix(options.out)
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    reading = replace(Reading.of(run.source.reading), table=table.record)
    whole = read_frame(options.data, index=True, words=words_of(reading))
    known = {column.name for column in table.columns} | reading.kinds.keys()
    frame = without_index(whole, known)
    context = _covariates(frame, run, options.data)
    missing = int((~table.encode(frame)[1]).sum())
    with recipes.running(options.recipe), seeded(options.seed):
        filled = impute_table(vae, table, frame, *context, particles=options.particles)
    for name in set(whole.columns).difference(frame.columns):
        filled = filled.append_column(name, whole.to_native()[name])
    write_frame(filled, options.out)
    print(f"written: {options.out}, {len(frame):,} rows with {missing:,} imputed values")
    return 0


def in_own_units(table: Table, data: Split, report: Report) -> str:
    """Return a sentence with the bounds' correction to the density of the frame's values."""
    mask = data.context[-1][: len(report.elbo.value)]
    return (
        "Numbers are standardized. For the density in the table's own units, add "
        f"{-float(table.log_scales(mask).mean()):.3f} nats per datum to each bound."
    )


def sample(run: Run, table: Table, options: Sampled) -> int:
    """Write a frame that is drawn from a run's model."""
    if options.means:
        raise ValueError("--means is for images; rows of a table are drawn: leave it out")
    path = options.out or run.folder / "samples.parquet"
    check_suffix(path)
    vae = recipes.load_vae(run, options.recipe, run.source.shape)
    number = options.number or ROWS
    context: tuple[Tensor, ...] = ()
    if run.source.reading.get("covariates"):
        test = rows_of(run.source.read_data(), "test")
        number = min(number, len(test))
        context = test.take(slice(number)).context[:-1]
        print(f"The covariates are those of the first {number:,} test data.")
    with recipes.running(options.recipe), seeded(options.seed):
        write_frame(table.sample(vae, number, *context), path)
    print(f"written: {path}, {number:,} rows")
    return 0


def _covariates(frame: Any, run: Run, where: Path) -> list[Tensor]:
    """Return the covariates of a frame, coded as those that a run was trained with."""
    context = []
    for name, kind in Reading.of(run.source.reading).kinds.items():
        if name not in frame.columns:
            raise ValueError(f"{where} lacks the column {name!r}, a covariate of the run")
        context.append(covariate(frame[name].to_numpy(), kind, f"{name!r} of {where}")[0])
    return context
