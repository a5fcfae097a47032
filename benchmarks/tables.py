"""Train and measure the rows of a published table, and write the table beside what was published.

    python benchmarks/tables.py iwae --root data --out runs/tables
    python benchmarks/tables.py iwae --root data --row "one layer, VAE-1" --budget 400000
    python benchmarks/tables.py iwae --page

The rows are those of a module in `benchmarks/tables/`. A row that was stopped goes on from its
last checkpoint by the same command; one that is measured is left. What is measured is one JSON
line a row in `benchmarks/tables/NAME.jsonl`, from which `--page` makes NAME.md, NAME.png and the
rows of `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from protocol import Row, Splits, Table, slug
from table_pages import CURVE_DATA, HERE, in_order, key, lines, tables, write

import pyrovae as pv
from pyrovae.measure.latents.active_units import active_units

POINTS: Final = 10
"""The number of points of a row's curve."""

REPORT: Final = "evaluation.json"
"""The report of a row's evaluation, in the row's folder."""


class Curve(pv.Callback):
    """Measure -IWAE-1000 on the first test images at a tenth, two tenths, ... of the steps.

    It is measured at the end of the first epoch from there on, and has no part in the training.
    The seconds are those of the processor over the steps: the time on a clock is longer where
    other processes run. With several threads they are those of a clock.

    Args:
        vae: the VAE that is trained.
        test: the test images.
        steps: the number of steps of the whole training.
    """

    def __init__(self, vae: pv.VAE, test: torch.Tensor, steps: int) -> None:
        self.vae, self.test, self.steps = vae, test[:CURVE_DATA], steps
        self.clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.points: list[dict[str, float]] = []
        self.seconds, self.began, self.step = 0.0, 0.0, 0

    def started_epoch(self, training: Any) -> None:
        """Start the clock."""
        self.began = self.clock()

    def measuring(self, training: Any) -> None:
        """Stop the clock."""
        self.seconds += self.clock() - self.began

    def finished_epoch(self, training: Any) -> None:
        """Measure, if a tenth of the steps is complete."""
        self.step = training.step
        last = self.points[-1]["steps"] if self.points else 0
        if training.step * POINTS // self.steps == last * POINTS // self.steps:
            return
        k = CURVE_DATA
        report = pv.evaluate(self.vae, self.test, particles=k, ks=[k])
        nll = -report.iwae[k].mean
        point = {"steps": training.step, "seconds": round(self.seconds, 1), "nll": nll}
        self.points.append(point)
        print(json.dumps(point), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds and the points so far."""
        points = [[p["steps"], p["seconds"], p["nll"]] for p in self.points]
        return {"seconds": self.seconds, "step": self.step, "points": points}

    def load_state_dict(self, state: Any) -> None:
        """Go on from an earlier part of the training."""
        self.seconds, self.began = float(state["seconds"]), self.clock()
        self.step = int(state["step"])
        self.points = [
            {"steps": int(steps), "seconds": float(seconds), "nll": float(nll)}
            for steps, seconds, nll in state["points"]
        ]


def train(
    row: Row, splits: Splits, folder: Path, *, steps: int, seed: int
) -> tuple[Any, Any, Any]:
    """Train a row, or go on with it; return the VAE, its history and its curve."""
    data = splits.train
    torch.manual_seed(seed)
    vae = row.make(data.x)
    curve = Curve(vae, splits.test.draw(), steps)
    if row.loop is not None:
        row.loop(vae, data.x, curve, steps=steps, batch=row.batch)
        return vae, None, curve
    history = pv.fit(
        vae,
        data,
        validation=splits.validation,
        epochs=-(-steps // -(-len(data) // row.batch)) + 1,
        batch_size=row.batch // row.accumulate,
        step=replace(row.step(steps), accumulate=row.accumulate),
        seed=seed,
        callbacks=[*row.callbacks(), curve, pv.Limit(steps=steps), pv.Checkpoint(folder)],
        resume=folder if (folder / "config.json").exists() else None,
    )
    return vae, history, curve


def measure(vae: pv.VAE, test: pv.data.Split, particles: int, folder: Path) -> dict[str, Any]:
    """Return the bounds over test images, and the numbers of active units by site.

    The report is saved in the row's folder.
    """
    x = test.draw()
    began = time.perf_counter()
    ks = sorted({1, min(50, particles), particles})
    report = pv.evaluate(vae, x, particles=particles, ks=ks)
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder / REPORT)
    bound = report.iwae[particles]
    units = active_units(vae, x)
    by_site: dict[str, int] = {}
    for name, active in zip(units.names, units.active.tolist(), strict=True):
        site = name.split("[")[0]
        by_site[site] = by_site.get(site, 0) + active
    return {
        "data": len(x),
        "particles": particles,
        "nll": -bound.mean,
        "over_data": bound.error_over_data,
        "over_particles": bound.error_over_particles,
        "iwae": {str(k): found.mean for k, found in report.iwae.items()},
        "elbo": report.elbo.mean,
        "kl": report.monte_carlo_kl.mean,
        "units": by_site,
        "untrusted": len(report.untrusted) / len(x),
        "evaluation_seconds": time.perf_counter() - began,
    }


def over_first(folder: Path, first: Path, particles: int) -> dict[str, float] | None:
    """Return by how many nats a row is ahead of the first, paired over the test images.

    None if the first row has not been measured here.
    """
    if not (first / REPORT).exists():
        return None
    a, b = (pv.read_report(each / REPORT) for each in (folder, first))
    ahead = pv.compare(a, b).differences[f"IWAE-{particles}"]
    return {
        "mean": ahead.mean,
        "over_data": ahead.error_over_data,
        "over_particles": ahead.error_over_particles,
    }


def folder_of(name: str, table: Table, args: argparse.Namespace) -> Path:
    """Return the folder of a row's run."""
    threads = torch.get_num_threads()
    folder = args.out / args.table / ("" if threads == 1 else f"{threads}-threads")
    return folder / f"{slug(name)}-{args.budget * 100 // table.rows[name].batch}-{args.seed}"


def annealed(vae: pv.VAE, test: pv.data.Split, data: int, temperatures: int) -> dict[str, Any]:
    """Return log p(x) by annealing from the guide, and its gap on simulated data."""
    with pv.seeded(0):
        found = pv.AIS(temperatures, limit=data, start="guide")(vae, test.draw())
    return {
        "data": data,
        "temperatures": temperatures,
        "mean": found.lower.mean,
        "over_data": found.lower.error_over_data,
        "over_particles": found.lower.error_over_particles,
        "gap": found.gap.mean,
        "gap_over_data": found.gap.error_over_data,
    }


def run(name: str, table: Table, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one row."""
    row, steps = table.rows[name], args.budget * 100 // table.rows[name].batch
    splits = (row.data or table.data)(args.root)
    threads, folder = torch.get_num_threads(), folder_of(name, table, args)
    vae, history, curve = train(row, splits, folder, steps=steps, seed=args.seed)
    if history is not None and history.ended == "interrupted":
        raise KeyboardInterrupt
    line = {
        "row": name,
        "steps": curve.step,
        "budget": args.budget,
        "batch": row.batch,
        "seed": args.seed,
        "seconds": curve.seconds,
        "compile_seconds": history.compile_seconds if history else 0.0,
        "threads": threads,
        "curve": curve.points,
        **measure(vae, splits.test, args.particles, folder),
    }
    if table.paired and name != next(iter(table.rows)):
        first = folder_of(next(iter(table.rows)), table, args)
        line["over_first"] = over_first(folder, first, args.particles)
    if args.ais:
        line["ais"] = annealed(vae, splits.test, *args.ais)
    versions = {package: version(package) for package in ("pyrovae", "torch", "pyro-ppl")}
    command = ["python", "benchmarks/tables.py", args.table, "--root", "data", "--row", name]
    command += ["--budget", f"{args.budget}", "--particles", f"{args.particles}"]
    command += ["--seed", f"{args.seed}", *(["--ais", *map(str, args.ais)] if args.ais else [])]
    command += [] if threads == 1 else ["--threads", f"{threads}"]
    return line | {
        "versions": versions,
        "python": platform.python_version(),
        "command": shlex.join(command),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sys.path.insert(0, str(HERE))
    by_name = tables()
    parser.add_argument("table", choices=by_name)
    parser.add_argument("--row", action="append", metavar="NAME", help="this row; may be repeated")
    parser.add_argument("--budget", type=int, help="steps of 100 data; fewer for larger batches")
    parser.add_argument("--root", default="data", help="the folder of the data")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument(
        "--ais", type=int, nargs=2, metavar=("DATA", "TEMPERATURES"), help="anneal so many images"
    )
    parser.add_argument("--page", action="store_true", help="only write the page and its figure")
    args = parser.parse_args()
    table = by_name[args.table]
    unknown = set(args.row or []) - set(table.rows)
    if unknown:
        parser.error(f"no row {sorted(unknown)}; the rows are {list(table.rows)}")
    args.budget = args.budget or table.steps
    torch.set_num_threads(args.threads)
    kept = in_order(table, lines(args.table))
    done = {key(line) for line in kept}
    for name in [] if args.page else args.row or table.rows:
        if (name, args.budget, args.seed, args.threads) in done:
            continue
        print(f"{name}: {args.budget:,} steps of 100", flush=True)
        line = run(name, table, args)
        with (HERE / f"{args.table}.jsonl").open("a") as rows:
            rows.write(json.dumps(line) + "\n")
    print(write(args.table, table))


if __name__ == "__main__":
    main()
