"""Render the comparison of several runs as one HTML page: differences, bounds, and settings.

The page is the template `comparison_page.html`, in the style of a run's report.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from pyrovae.cli.page import answer, environment, settings_of, shown_figure
from pyrovae.measure.compare import Comparison
from pyrovae.measure.rank import Ranking
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.runs import Run

__all__ = ["page"]

CAPTIONS: Final = {
    Comparison: "Left: the difference of the tightest bound, datum by datum. Right: the mean "
    "difference of each quantity, with its 95% interval over data.",
    Ranking: "The paired difference of each run from the best, with intervals that hold for all "
    "pairs at once at level 5%. Gray: significantly worse.",
}


def page(
    found: Comparison | Ranking,
    runs: Mapping[str, Run],
    reports: Mapping[str, SavedFinding],
    figure: Figure,
    *,
    out: Path,
) -> str:
    """Return the page as HTML.

    Args:
        found: the comparison of two runs, or the ranking of several.
        runs: the runs by their names.
        reports: their evaluations by the same names.
        figure: the figure of the comparison.
        out: the file that the page is written to, for links to the runs' reports.

    Raises:
        ValueError: if the configuration of a run is damaged.
    """
    return (
        environment()
        .get_template("comparison_page.html")
        .render(
            found=found.to_json(),
            names=list(runs),
            bounds=_bounds(reports),
            trust={name: answer(saved) for name, saved in reports.items()},
            partial=[name for name, saved in reports.items() if saved.partial],
            links={name: link for name, run in runs.items() if (link := _link(run, out))},
            settings=_different(runs, reports),
            commands={name: saved.said.get("command") for name, saved in reports.items()},
            figures={"comparison": shown_figure(figure, CAPTIONS[type(found)])},
        )
    )


def _bounds(reports: Mapping[str, SavedFinding]) -> dict[str, list[float | None]]:
    """Return the mean and the error over data of each run, by quantity; None if it has none."""
    names = dict.fromkeys(name for saved in reports.values() for name in saved.quantities)
    rows: dict[str, list[float | None]] = {}
    for name in names:
        each = [saved.quantities.get(name) for saved in reports.values()]
        rows[name] = [
            None if math.isnan(value) else value
            for quantity in each
            for value in (
                (math.nan, math.nan)
                if quantity is None
                else (quantity.mean, quantity.error_over_data)
            )
        ]
    return rows


def _link(run: Run, out: Path) -> str:
    """Return the place of a run's report relative to the page; "" if it has none."""
    report = run.folder / "report.html"
    if not report.exists():
        return ""
    return Path(os.path.relpath(report.resolve(), out.resolve().parent)).as_posix()


def _different(
    runs: Mapping[str, Run], reports: Mapping[str, SavedFinding]
) -> dict[str, list[str]]:
    """Return the settings in which the runs differ, one cell for each run."""
    flat: list[dict[str, Any]] = []
    for name, run in runs.items():
        tables = settings_of(run.config, reports[name].said)
        seed = {"seed of the evaluation": reports[name].said.get("seed")}
        each = {"model": tables["model"], "training": tables["training"]}
        each |= {"evaluation": tables["evaluation"]}
        values = {f"{part}: {key}": v for part, table in each.items() for key, v in table.items()}
        flat.append({**values, **seed})
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = {key: ["" if v.get(key) is None else str(v[key]) for v in flat] for key in keys}
    return {key: cells for key, cells in rows.items() if len({*cells}) > 1}
