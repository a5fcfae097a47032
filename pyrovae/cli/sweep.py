"""Run `pyrovae sweep`: train every cell of an experiment's table [sweep], and rank them.

Each cell is a run of `pyrovae train` in a process of its own. What a cell has reached is read from
its folder, so that a sweep goes on where it ended, whoever trained its cells.
"""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Final

from rich.console import Console
from rich.table import Table

from pyrovae.cli import sweep_table
from pyrovae.cli.cells import Found, Reader, finished_runs, write_results
from pyrovae.cli.children import Children, terminated_as_interrupted
from pyrovae.cli.complaints import INTERRUPTED, NOT_FINITE, SIGTERMED, complain
from pyrovae.cli.options import Swept
from pyrovae.cli.sweep_table import Cell, Sweep
from pyrovae.measure.rank import Ranking, rank
from pyrovae.runs import Run
from pyrovae.runs import folder as folders
from pyrovae.runs.checkpoints import Checkpoints

__all__ = ["sweep"]

RESULTS: Final = "results.jsonl"
"""The file of a sweep's results, one line for each cell."""

LOGS: Final = "logs"
"""The folder of what the cells print."""


def sweep(file: Path, options: Swept) -> int:
    """Train the cells of a sweep, print their table, and write it to a file.

    Raises:
        ValueError: if the experiment is invalid, or a folder holds a run of another one.
        OSError: if a folder cannot be written.
    """
    tables, axes = sweep_table.read(file)
    trained = finished_runs(options.out / RESULTS)
    reader = Reader(tables, options.out, options.evaluate, options.recipe, trained)
    if options.print:
        return _print(file, axes, options, reader)
    running = _Running(file, axes, options, reader)
    cells = running.cells()
    with folders.held(options.out), terminated_as_interrupted():
        try:
            running.run(cells)
        except KeyboardInterrupt:
            running.children.end()
            done = sum(found.finished for found in running.found.values())
            again = f"the same command goes on after {done} finished cells"
            return complain(f"interrupted: {again}", INTERRUPTED)
        finally:
            running.write()
    _print_table(list(running.found.values()), reader)
    print(f"written: {options.out / RESULTS}")
    failed = [found for found in running.found.values() if not found.finished]
    if failed:
        first = failed[0]
        return complain(
            f"{len(failed)} of {len(running.found)} cells failed, {first.cell.name} first: "
            f"{first.failure}",
            NOT_FINITE,
        )
    return 0


def commands(file: Path, cell: Cell, options: Swept, *, again: bool) -> list[list[str]]:
    """Return the command that trains a cell, and the one that evaluates it if asked.

    A cell that was broken off is resumed from its last checkpoint, or begun anew without one.
    """
    folder = str(options.out / cell.name)
    recipe = ["--recipe", str(options.recipe)] if options.recipe else []
    train = ["train", str(file), *cell.words, *recipe, "--out", folder]
    if again and Checkpoints(Path(folder)).files():
        train = ["train", "--resume", folder, *recipe]
    elif again:
        train = [*train, "--overwrite"]
    found = [train]
    if options.evaluate:
        measured = ["--split", "validation", "--particles", str(options.evaluate)]
        found.append(["evaluate", folder, *measured, *recipe])
    return found


def _print(file: Path, axes: Sweep, options: Swept, reader: Reader) -> int:
    """Print one command line for each cell that is not finished."""
    if axes.trials is not None:
        raise ValueError(
            f"{file}: Optuna's trials depend on earlier ones, so they are not known beforehand: "
            "remove trials from [sweep] to print a grid"
        )
    for cell in axes.grid():
        found = reader.read(cell)
        if not found.finished:
            lines = commands(file, cell, options, again=found.exists)
            left = lines[1:] if found.ended else lines
            print(" && ".join(shlex.join(["pyrovae", *words]) for words in left))
    return 0


@dataclass
class _Running:
    """A sweep that runs: its cells so far, and the children that train them."""

    file: Path
    axes: Sweep
    options: Swept
    reader: Reader
    found: dict[str, Found] = field(default_factory=dict)
    children: Children = field(default_factory=Children)

    def run(self, cells: Iterator[Cell]) -> None:
        """Train the cells that are not finished, several at once."""
        (self.options.out / LOGS).mkdir(parents=True, exist_ok=True)
        pool = concurrent.futures.ThreadPoolExecutor(self.options.jobs)
        pending: dict[concurrent.futures.Future[Found], Cell] = {}
        try:
            while True:
                while len(pending) < self.options.jobs and (cell := next(cells, None)):
                    self.found.setdefault(cell.name, Found(cell))
                    self.write()
                    self._said(f"{cell.name} ...")
                    pending[pool.submit(self._trained, cell)] = cell
                if not pending:
                    return
                done, _ = concurrent.futures.wait(
                    pending, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    del pending[future]
                    self._note(future.result())
        except BaseException:
            self.children.end()
            raise
        finally:
            pool.shutdown()

    def write(self) -> None:
        """Write the results so far."""
        if self.found:
            write_results(self.options.out / RESULTS, self.found.values())

    def cells(self) -> Iterator[Cell]:
        """Return the cells to train, one after the other. Those that are finished are noted."""
        if self.axes.trials is not None:
            from pyrovae.cli.trials import Trials

            trials = Trials(self.axes, self.options.out / RESULTS, self.reader)
            return trials.cells(self.found)
        read = {cell.name: self.reader.read(cell) for cell in self.axes.grid()}
        self.found.update(read)
        finished = sum(found.finished for found in read.values())
        if finished:
            self._said(f"{finished} of {len(read)} cells are finished")
        return (found.cell for found in read.values() if not found.finished)

    def _trained(self, cell: Cell) -> Found:
        """Train a cell, and evaluate it if asked."""
        before = self.reader.read(cell)
        log = self.options.out / LOGS / f"{cell.name}.txt"
        log.unlink(missing_ok=True)
        lines = commands(self.file, cell, self.options, again=before.exists)
        for words in lines[1:] if before.ended else lines:
            argv = [sys.executable, "-m", "pyrovae", *words]
            code = self.children.run(argv, log, _environment(self.options.jobs))
            if code:
                return self.reader.failed(cell, _failure(code, log))
            self.reader.trained.add(str(Run(self.options.out / cell.name).config.get("run")))
        found = self.reader.read(cell)
        if found.finished:
            return found
        return self.reader.failed(cell, f"its {self.reader.measure} is not known")

    def _note(self, found: Found) -> None:
        self.found[found.cell.name] = found
        self.write()
        name, measure = found.cell.name, self.reader.measure
        if found.finished:
            seconds = f"{found.seconds:.0f} s of steps"
            self._said(f"{name}: {measure} {found.value:.3f}, {seconds}")
        elif not self.children.ended:
            self._said(f"{name} failed: {found.failure}")

    @staticmethod
    def _said(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)


def _environment(jobs: int) -> dict[str, str]:
    """Return the environment of a child: one thread each if there are several."""
    return {**os.environ} | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})


def _failure(code: int, log: Path) -> str:
    """Return why a command failed: its last line, unless a signal ended it, which says nothing."""
    ended = SIGTERM if code == SIGTERMED else -code
    if ended > 0:
        name = Signals(ended).name
        hint = ", as where memory runs out" if name == "SIGKILL" else ""
        return f"it was ended by {name}{hint}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("pyrovae: error: ") if lines else f"exit code {code}"


def _print_table(cells: list[Found], reader: Reader) -> None:
    """Print the cells by rank, the best first, with paired errors if they were evaluated."""
    finished = sorted((found for found in cells if found.finished), key=_loss)
    ranking = _ranking(finished, reader) if reader.evaluate and len(finished) > 1 else None
    behind = {} if ranking is None else ranking.differences
    table = Table(title=f"by the {reader.measure}, nats per datum", box=None)
    paired = ["from the best, paired"] if behind else []
    for name in ("", "cell", reader.measure, *paired, "epochs", "s of steps"):
        table.add_column(name, justify="left" if name == "cell" else "right", no_wrap=True)
    for place, found in enumerate(finished, 1):
        d = behind.get(found.cell.name)
        less = [f"{d.mean:.3f} ± {d.error_over_data:.3f}" if d else ""] if behind else []
        numbers = f"{found.value:.3f}", *less, str(found.trained), f"{found.seconds:.0f}"
        table.add_row(str(place), found.cell.name, *numbers)
    for found in (found for found in cells if not found.finished):
        table.add_row("", found.cell.name, "failed")
    width = max(len(found.cell.name) for found in cells) + 90
    Console(width=width, highlight=False).print(table)
    if ranking is not None:
        print(*ranking.verdict, sep="\n")


def _ranking(cells: list[Found], reader: Reader) -> Ranking:
    return rank(
        {found.cell.name: Run(reader.out / found.cell.name).evaluation() for found in cells}
    )


def _loss(found: Found) -> float:
    return -found.value
