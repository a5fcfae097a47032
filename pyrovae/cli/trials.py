"""Let Optuna propose the cells of a sweep, one after the other.

The study is rebuilt from the results of the sweep, and each proposal has a seed of its own. With
one job, a sweep that was interrupted proposes what it would have proposed anyway.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyrovae.cli.cells import Found, Reader
from pyrovae.cli.sweep_table import Cell, Range, Sweep

__all__ = ["Trials"]


class Trials:
    """Propose cells by Optuna's tree-structured Parzen estimator.

    Args:
        sweep: the entries that vary, and the number of trials.
        results: the file of the sweep's results.
        reader: reads what cells have reached.

    Raises:
        ValueError: if Optuna is not installed, or the results are of another sweep.

    References:
        Bergstra, Bardenet, Bengio, Kégl, 2011. Algorithms for Hyper-Parameter Optimization.
        Akiba et al., 2019. Optuna.
    """

    def __init__(self, sweep: Sweep, results: Path, reader: Reader) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ValueError(
                "trials are proposed by Optuna, which is not installed: python -m pip install "
                "'pyrovae[sweeps]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.sweep, self.reader = optuna, sweep, reader
        self.study = optuna.create_study(direction="maximize")
        self.space = {key: _space(optuna, values) for key, values in sweep.axes.items()}
        self.earlier = _earlier(results, sweep)

    def cells(self, found: dict[str, Found]) -> Iterator[Cell]:
        """Yield the cells to train, and note the finished ones in `found`.

        The results of the cells that were yielded are read from `found`.
        """
        trials = range(self.sweep.trials or 0)
        # The results are written of all that was proposed, so that none is proposed anew after
        # another interruption.
        earlier = [self.earlier[number] for number in trials if number in self.earlier]
        found.update({cell.name: self.reader.read(cell) for cell in earlier})
        waiting: dict[str, Any] = {}
        for number in trials:
            self._tell(waiting, found)
            cell = self.earlier.get(number)
            if cell is None:
                trial, cell = self._ask(number)
            else:
                trial = self._enqueued(cell)
            waiting[cell.name] = trial
            found[cell.name] = self.reader.read(cell)
            if not found[cell.name].finished:
                yield cell

    def _ask(self, number: int) -> tuple[Any, Cell]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(seed=self.sweep.seed + number)
            trial = self.study.ask(self.space)
        entries = {key: _value(self.sweep.axes[key], trial.params[key]) for key in self.space}
        return trial, self.sweep.cell(entries, number)

    def _enqueued(self, cell: Cell) -> Any:
        """Return a trial with the values of a cell that was proposed before."""
        entries = cell.entries.items()
        self.study.enqueue_trial(
            {key: _parameter(self.sweep.axes[key], value) for key, value in entries}
        )
        return self.study.ask(self.space)

    def _tell(self, waiting: dict[str, Any], found: dict[str, Found]) -> None:
        """Tell the study of the cells that have ended."""
        failed = self.optuna.trial.TrialState.FAIL
        for name in [name for name in waiting if found[name].finished or found[name].failure]:
            trial, value = waiting.pop(name), found[name].value
            if math.isfinite(value):
                self.study.tell(trial, value)
            else:
                self.study.tell(trial, state=failed)


def _earlier(results: Path, sweep: Sweep) -> dict[int, Cell]:
    """Return the cells that were proposed before, by their number.

    Raises:
        ValueError: if they are of another sweep.
    """
    if not results.is_file():
        return {}
    again = "choose another --out, or remove the file and the folders of its cells"
    found = {}
    for line in results.read_text().splitlines():
        try:
            said = json.loads(line)
            name, entries = str(said["cell"]), dict(said["entries"])
            number = int(name.partition(",")[0])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{results} is damaged or not of Optuna's trials: {again}") from error
        fits = entries.keys() == sweep.axes.keys() and all(
            _holds(sweep.axes[key], value) for key, value in entries.items()
        )
        if not fits:
            raise ValueError(f"{results} is of another [sweep], with {name}: {again}")
        found[number] = Cell(name, entries)
    return found


def _holds(values: list[Any] | Range, value: Any) -> bool:
    if isinstance(values, Range):
        return isinstance(value, int | float) and values.low <= value <= values.high
    return value in values


def _space(optuna: Any, values: list[Any] | Range) -> Any:
    if isinstance(values, list):  # by their places, as a value may be a list or a table
        return optuna.distributions.CategoricalDistribution(range(len(values)))
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    step = values.step or 1
    if whole and isinstance(step, int):
        return optuna.distributions.IntDistribution(values.low, values.high, values.log, step)
    return optuna.distributions.FloatDistribution(values.low, values.high, values.log, values.step)


def _value(values: list[Any] | Range, parameter: Any) -> Any:
    return values[parameter] if isinstance(values, list) else parameter


def _parameter(values: list[Any] | Range, value: Any) -> Any:
    return values.index(value) if isinstance(values, list) else value
