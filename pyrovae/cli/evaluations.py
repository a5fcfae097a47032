"""Write the evaluation of a run, and remove the files that it makes obsolete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.runs import Run
from pyrovae.runs.record import provenance
from pyrovae.runs.run import EVALUATION
from pyrovae.runs.sources import Source

__all__ = ["measured_source", "save_report"]

PARTIAL: Final = "evaluation.partial.json"
"""The file of a partial evaluation, if there is a complete one. Commands do not read it."""


def save_report(report: Report, run: Run, source: Source, **said: Any) -> Path:
    """Write a report with its provenance and its data set, and return its path.

    A complete evaluation replaces earlier ones, complete or partial. A partial evaluation is
    written to a file of its own if there is a complete one.

    Args:
        report: the report.
        run: its run.
        source: its data set.
        **said: further entries: the command, the split and its limit, and the hash of the
            parameters that were measured.

    Raises:
        OSError: if a file cannot be written.
    """
    beside = report.partial and _holds_complete(run)
    path = run.folder / (PARTIAL if beside else EVALUATION)
    made = {**provenance(), "run": run.config.get("run"), "limit": None}
    recorded = source.record
    recorded["data_set"] = recorded.pop("name")
    del recorded["content"], recorded["columns"]  # they are the run's
    report.save(path, **(made | recorded | said))
    if not report.partial:
        partial = run.folder / PARTIAL
        _remove(partial, "an earlier one, which was interrupted")
        partial.with_suffix(".safetensors").unlink(missing_ok=True)
    if path.name == EVALUATION:
        figures = run.folder.glob("figures/comparison-*.png")
        for old in (run.folder / "report.html", *figures):
            _remove(old, "of the evaluation before")
    return path


def measured_source(saved: SavedFinding, config: Mapping[str, Any]) -> tuple[Source, str]:
    """Return the data set and the split of an evaluation, or the test data of the training."""
    said, trained = saved.said, Source.read(config.get("data"))
    if "data_set" not in said:
        return trained, "test"
    recorded = {key: said.get(key) for key in ("root", "binarization", "shape", "reading")}
    source = Source.read({"name": said["data_set"], **recorded})
    return replace(source, columns=trained.columns), str(said.get("split"))


def _holds_complete(run: Run) -> bool:
    try:
        return not run.evaluation().partial
    except ValueError:
        return False


def _remove(path: Path, what: str) -> None:
    if path.exists():
        path.unlink()
        print(f"removed: {path}, {what}")
