"""Read what the cells of a sweep have reached from their folders, and write it down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, final

from pyrovae.cli import experiment
from pyrovae.cli.experiment import Tables, Training
from pyrovae.cli.names import MODULES, parts, unknown
from pyrovae.cli.sweep_table import Cell
from pyrovae.files import write_atomically
from pyrovae.runs import Run
from pyrovae.runs.checkpoints import Checkpoints
from pyrovae.weights.bounds import Estimate

__all__ = ["Found", "Reader", "finished_runs", "write_results"]

DERIVED: Final = ("likelihood", "guide", "data")
"""The tables whose entries, where an experiment leaves them out, a run derives from its data."""


@final
@dataclass(frozen=True)
class Found:
    """What a cell has reached.

    Attributes:
        cell: the cell.
        exists: whether its folder holds a run.
        ended: whether the run is trained to its end.
        trained: the number of epochs.
        value: what cells are ranked by, in nats per datum; NaN if there is none yet.
        error: its error over data; NaN if it has none.
        seconds: the time of its steps.
        failure: the last line that a failed cell printed.
        run: the name of the run in its folder.
    """

    cell: Cell
    exists: bool = False
    ended: bool = False
    trained: int = 0
    value: float = math.nan
    error: float = math.nan
    seconds: float = 0.0
    failure: str = ""
    run: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the cell is trained, and evaluated if that was asked for."""
        return self.ended and not math.isnan(self.value)


@final
@dataclass(frozen=True)
class Reader:
    """Read the folders of cells.

    Attributes:
        tables: the experiment, without [sweep].
        out: the folder of the sweep.
        evaluate: the number of particles of the bound that ranks; None is the validation ELBO.
        recipe: the file that makes the VAE, if any.
        trained: the names of runs that are known to be trained to their end.
    """

    tables: Tables
    out: Path
    evaluate: int | None = None
    recipe: Path | None = None
    trained: set[str] = field(default_factory=set)

    @property
    def measure(self) -> str:
        """The name of what cells are ranked by."""
        return f"validation IWAE-{self.evaluate}" if self.evaluate else "validation ELBO"

    def read(self, cell: Cell) -> Found:
        """Return what a cell has reached.

        Raises:
            ValueError: if its entries are invalid, or its folder holds a run of another
                experiment.
        """
        wanted = experiment.layered([self.tables, experiment.checked(cell.tables)])
        training = experiment.settings(wanted, "training")
        experiment.settings(wanted, "data")
        for role in MODULES:
            name = wanted[role].get("name")
            if name is not None and name not in parts(role):
                raise ValueError(f"{cell.name}: {unknown(role, str(name), parts(role))}")
        folder = self.out / cell.name
        if not any((folder / name).exists() for name in ("config.json", "model.safetensors")):
            return Found(cell)
        run = Run(folder)
        self._check_same(folder, run.config.get("experiment") or {}, wanted)
        epochs = run.metrics
        elbos = [_number(line.get("validation_elbo")) for line in epochs]
        seconds = sum(_number(line.get("seconds")) for line in epochs)
        named = run.config.get("run")
        ended = named in self.trained or _has_ended(folder, elbos, training)
        value, error = math.nan, math.nan
        if ended and elbos:
            value = _best(elbos) if training.patience else elbos[-1]
        if ended and self.evaluate:
            value, error = self._bound(run)
        state = Found(cell, exists=True, ended=ended, trained=len(elbos), run=named)
        return replace(state, value=value, error=error, seconds=seconds)

    def failed(self, cell: Cell, failure: str) -> Found:
        """Return a cell that failed."""
        return Found(cell, failure=failure)

    def _bound(self, run: Run) -> tuple[float, float]:
        """Return the bound of a run's evaluation and its error; NaN if it is of other data."""
        try:
            saved = run.evaluation()
        except ValueError:
            return math.nan, math.nan
        bound = saved.quantities.get(f"IWAE-{self.evaluate}", saved.quantities.get("ELBO"))
        of_these = saved.said.get("split") == "validation" and not saved.partial
        if not (of_these and saved.particles == self.evaluate and isinstance(bound, Estimate)):
            return math.nan, math.nan
        return bound.mean, bound.error_over_data

    def _check_same(self, folder: Path, recorded: Tables, wanted: Tables) -> None:
        ours = {"prior", "likelihood", "guide", "net"} if self.recipe else set()
        for table in (recorded.keys() | wanted.keys()) - ours:
            one, other = (_plain(table, tables.get(table, {})) for tables in (recorded, wanted))
            keys = other.keys() if table in DERIVED else one.keys() | other.keys()
            different = [key for key in keys if one.get(key) != other.get(key)]
            if different:
                key = sorted(different)[0]
                raise ValueError(
                    f"{folder} holds a run of another experiment, with {table}.{key} = "
                    f"{one.get(key)!r} and not {other.get(key)!r}: choose another --out, or "
                    "remove the folder"
                )


def finished_runs(path: Path) -> set[str]:
    """Return the names of the runs that a file of results calls finished."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {line["run"] for line in lines if line["finished"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()  # What the folders show is known all the same.


def write_results(path: Path, cells: Iterable[Found]) -> None:
    """Write one line of JSON for each cell."""
    lines = [json.dumps(_line(found)) + "\n" for found in cells]
    write_atomically(path, "".join(lines).encode())


def _line(found: Found) -> dict[str, Any]:
    numbers = {"value": found.value, "error": found.error, "seconds": found.seconds}
    return {
        "cell": found.cell.name,
        "entries": found.cell.entries,
        "finished": found.finished,
        "epochs": found.trained,
        **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
        "failure": found.failure or None,
        "run": found.run,
    }


def _has_ended(folder: Path, elbos: list[float], training: Training) -> bool:
    """Tell whether a training is over: figures are drawn at its end.

    Early stopping ends it when the best validation ELBO is `patience` epochs ago. A training that
    ended by its time does not show it here.
    """
    if not elbos or not (folder / "figures" / "history.png").exists():
        return False
    steps = [step for step, _ in Checkpoints(folder).files()]
    if steps and steps[-1] >= (training.max_steps or math.inf):
        return True
    if _is_within_epoch(folder):
        return False
    best = _best(elbos)
    waited = len(elbos) - 1 - elbos.index(best) if best in elbos else len(elbos)
    patient = training.patience is None or waited < training.patience
    return len(elbos) >= training.epochs or not patient


def _is_within_epoch(folder: Path) -> bool:
    """Tell whether a training was ended in the middle of an epoch, as by SIGTERM.

    Its last epoch is measured and written like a whole one.
    """
    try:
        state, _ = Checkpoints(folder).newest()
        return bool(state["epoch"]["batches"])
    except (ValueError, TypeError, KeyError):  # removed to save space, or of another version
        return False


def _best(elbos: list[float]) -> float:
    """Return the largest ELBO that is finite, as early stopping chooses; NaN if there is none."""
    return max(filter(math.isfinite, elbos), default=math.nan)


def _plain(table: str, entries: Any) -> dict[str, Any]:
    """Return the entries of a table that make it another experiment; the data may be moved."""
    left = {"root"} if table == "data" else set()
    found = {key: value for key, value in experiment.named(entries).items() if key not in left}
    return {key: _as_path(value) if key == "name" else value for key, value in found.items()}


def _as_path(name: Any) -> Any:
    return str(Path(name).resolve()) if isinstance(name, str) and Path(name).exists() else name


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else math.nan
