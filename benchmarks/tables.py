"""Train and measure the rows of a published table, and write the table beside what was published.

    python benchmarks/tables.py iwae --root data --out runs/tables
    python benchmarks/tables.py iwae --root data --row "one layer, VAE-1" --budget 400000
    python benchmarks/tables.py iwae --page

The rows are those of a module in `benchmarks/tables/`. A row that was stopped goes on from its
last checkpoint by the same command; one that is measured is left. What is measured is one JSON
line a row in `benchmarks/tables/NAME.jsonl`, from which `--page` makes NAME.md and NAME.png.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from protocol import Row, Splits, Table

import pyrovae as pv
from pyrovae.measure.latents.active_units import active_units

HERE: Final = Path(__file__).parent / "tables"

CURVE_DATA: Final = 1000
"""The number of test images, and of particles, of the points of a row's curve."""

POINTS: Final = 10

MANY: Final = 50
"""The points of a figure from which its highest tenth lies outside."""


class Curve(pv.Callback):
    """Measure -IWAE-1000 on the first test images at a tenth, two tenths, ... of the steps.

    It is measured at the end of the first epoch from there on, and has no part in the training.
    The seconds are those of the processor over the steps: the time on a clock is longer where
    other processes run.

    Args:
        vae: the VAE that is trained.
        test: the test images.
        steps: the number of steps of the whole training.
    """

    def __init__(self, vae: pv.VAE, test: torch.Tensor, steps: int) -> None:
        self.vae, self.test, self.steps = vae, test[:CURVE_DATA], steps
        self.points: list[dict[str, float]] = []
        self.seconds, self.began, self.step = 0.0, 0.0, 0

    def started_epoch(self, training: Any) -> None:
        """Start the clock."""
        self.began = time.process_time()

    def measuring(self, training: Any) -> None:
        """Stop the clock."""
        self.seconds += time.process_time() - self.began

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
        self.seconds, self.began = float(state["seconds"]), time.process_time()
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


def measure(vae: pv.VAE, test: pv.data.Split, particles: int) -> dict[str, Any]:
    """Return the bounds over test images, and the numbers of active units by site."""
    x = test.draw()
    began = time.perf_counter()
    ks = sorted({1, min(50, particles), particles})
    report = pv.evaluate(vae, x, particles=particles, ks=ks)
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
    folder = args.out / args.table / f"{slug(name)}-{steps}-{args.seed}"
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
        "threads": torch.get_num_threads(),
        "curve": curve.points,
        **measure(vae, splits.test, args.particles),
    }
    if args.ais:
        line["ais"] = annealed(vae, splits.test, *args.ais)
    versions = {package: version(package) for package in ("pyrovae", "torch", "pyro-ppl")}
    command = ["python", "benchmarks/tables.py", args.table, "--root", "data", "--row", name]
    command += ["--budget", f"{args.budget}", "--particles", f"{args.particles}"]
    command += ["--seed", f"{args.seed}", *(["--ais", *map(str, args.ais)] if args.ais else [])]
    return line | {
        "versions": versions,
        "python": platform.python_version(),
        "command": shlex.join(command),
    }


def slug(name: str) -> str:
    """Return a name of a folder.

    >>> slug("one layer, IWAE-5")
    'one-layer-iwae-5'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def lines(name: str) -> list[dict[str, Any]]:
    """Return the rows that are measured: the last line of each row, budget and seed."""
    path = HERE / f"{name}.jsonl"
    found = path.read_text().splitlines() if path.exists() else []
    read = [json.loads(line) for line in found]
    return list({(line["row"], line["budget"], line["seed"]): line for line in read}.values())


def page(table: Table, measured: list[dict[str, Any]], name: str) -> str:
    """Return the table in Markdown."""
    head = "| | steps | seed | published | ours | ± over data | ± over particles | over published "
    unit = "Bits per dimension" if table.bits else "Nats per datum"
    particles = " or ".join(f"{k:,}" for k in sorted({line["particles"] for line in measured}))
    text = [
        f"# {table.title}\n",
        table.text + "\n",
        f"Made by `python benchmarks/tables.py {name} --page` from `{name}.jsonl`, which also has "
        f"the curve of each row. Published numbers are from memory. {unit}, -IWAE-K with K = "
        f"{particles}; k-hat too large is the share of the data whose k-hat is above its limit, "
        "so that the bound falls short of log p(x) there; seconds are those of the processor over "
        "the steps, on one thread.\n",
        head + "| ELBO | KL | active units (published) | k-hat too large | CPU s |",
        "|---" * 2 + "|---:" * 11 + "|",
    ]
    missing = []
    for row_name, row in table.rows.items():
        found = [line for line in measured if line["row"] == row_name]
        if not found:
            known = "" if row.published is None else f" (published {row.published:.2f})"
            missing.append(row_name + known)
        text += [
            _line(line, row, table)
            for line in sorted(found, key=lambda x: (x["budget"], x["seed"]))
        ]
    if missing:
        text.append("\nNot run: " + "; ".join(missing) + ".")
    found = [_annealing(line) for line in measured if "ais" in line]
    if found:
        text += ["\n## By annealing\n", *found]
    if table.goals and measured:
        text += ["\n## Seconds to a number\n", *_seconds_to(table.goals, measured)]
    if any(line["curve"] for line in measured):
        text.append(f"\n![-IWAE-1000 on the first {CURVE_DATA:,} test data]({name}.png)")
    commands = [f"- {line['row']}: `{line['command']}` ({_versions(line)})" for line in measured]
    return "\n".join([*text, "\n## Commands\n", *commands]) + "\n"


def _seconds_to(goals: Sequence[float], measured: list[dict[str, Any]]) -> list[str]:
    """Return a table of the seconds of the first point of each curve at or below each number."""
    text = [
        f"Processor seconds to the first point of a row's curve (-IWAE-{CURVE_DATA} on the first "
        f"{CURVE_DATA:,} test data, ten points a training) at or below so many nats; none where "
        "the row ends above.\n",
        "| | images seen | " + " | ".join(f"{goal:.1f}" for goal in goals) + " | at the end |",
        "|---|---:|" + "---:|" * (len(goals) + 1),
    ]
    for line in sorted(measured, key=lambda each: (each["budget"], each["curve"][-1]["nll"])):
        curve = line["curve"]
        first = [next((p["seconds"] for p in curve if p["nll"] <= goal), None) for goal in goals]
        cells = " | ".join("" if s is None else f"{s:,.0f}" for s in first)
        images = f"{line['steps'] * line['batch']:,}"
        text.append(f"| {line['row']} | {images} | {cells} | {curve[-1]['nll']:.2f} |")
    return text


def _annealing(line: dict[str, Any]) -> str:
    ais = line["ais"]
    return (
        f"- {line['row']}, {line['steps']:,} steps: {ais['mean']:.2f} ± {ais['over_data']:.2f} "
        f"over the first {ais['data']} test data, ± {ais['over_particles']:.3f} over chains, from "
        f"below; {ais['temperatures']:,} temperatures. The bounds from below and above on "
        f"simulated data are {ais['gap']:.3f} ± {ais['gap_over_data']:.3f} apart."
    )


def _versions(line: dict[str, Any]) -> str:
    return ", ".join(f"{package} {version}" for package, version in line["versions"].items())


def _unit(table: Table, row: Row) -> tuple[float, float]:
    """Return the factor and the summand from nats to what the table shows."""
    if not table.bits:
        return 1.0, 0.0
    return 1 / (table.bits * math.log(2)), 8.0 if row.continuous else 0.0


def _line(line: dict[str, Any], row: Row, table: Table) -> str:
    unit, levels = _unit(table, row)
    units = " + ".join(str(count) for count in line["units"].values())
    known = f" ({' + '.join(map(str, row.units))})" if row.units else ""
    nll = unit * line["nll"] + levels
    over = "" if row.published is None else f"{nll - row.published:+.2f}"
    published = "" if row.published is None else f"{row.published:.2f}"
    return (
        f"| {line['row']} | {line['steps']:,} | {line['seed']} | {published} | "
        f"{nll:.2f} | {unit * line['over_data']:.2f} | {unit * line['over_particles']:.3f} | "
        f"{over} | {unit * line['elbo'] - levels:.2f} | {unit * line['kl']:.2f} | "
        f"{units}{known} | "
        f"{100 * line['untrusted']:.0f} % | {line['seconds']:,.0f} |"
    )


def figure(table: Table, measured: list[dict[str, Any]]) -> Any:
    """Return test nats against seconds, one curve a row."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    curves = [line for line in measured if line["curve"]]
    drawn = Figure(figsize=(7.2, 3.7 + 0.19 * len(curves)), layout="constrained")
    axes = drawn.subplots()
    heights: list[float] = []
    for i, line in enumerate(curves):
        unit, levels = _unit(table, table.rows[line["row"]])
        points = ((p["seconds"], unit * p["nll"] + levels) for p in line["curve"])
        seconds, nll = zip(*points, strict=True)
        label = f"{line['row']}, {line['steps']:,} steps"
        style = f"{'os^Dvx*'[i % 7]}{'-' if i < 10 else '--'}"
        axes.plot(seconds, nll, style, ms=4, lw=1.2, label=label)
        heights += nll
    if len(heights) > MANY:  # the start of a slow curve would leave no room for the others
        low, high = min(heights), sorted(heights)[int(0.9 * len(heights))]
        axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set(
        xscale="log",
        xlabel="seconds of the processor over the steps",
        ylabel="-IWAE-1000, first 1,000 test images" + (", bits" if table.bits else ""),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside lower left", fontsize=8, frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in HERE.glob("*.py"))
    parser.add_argument("table", choices=names)
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
    sys.path.insert(0, str(HERE))
    table: Table = importlib.import_module(args.table).TABLE
    unknown = set(args.row or []) - set(table.rows)
    if unknown:
        parser.error(f"no row {sorted(unknown)}; the rows are {list(table.rows)}")
    args.budget = args.budget or table.steps
    torch.set_num_threads(args.threads)
    done = {(line["row"], line["budget"], line["seed"]) for line in lines(args.table)}
    for name in [] if args.page else args.row or table.rows:
        if (name, args.budget, args.seed) in done:
            continue
        print(f"{name}: {args.budget:,} steps of 100", flush=True)
        line = run(name, table, args)
        with (HERE / f"{args.table}.jsonl").open("a") as rows:
            rows.write(json.dumps(line) + "\n")
    measured = lines(args.table)
    (HERE / f"{args.table}.md").write_text(page(table, measured, args.table))
    if any(line["curve"] for line in measured):
        figure(table, measured).savefig(HERE / f"{args.table}.png", dpi=130)
    print(HERE / f"{args.table}.md")


if __name__ == "__main__":
    main()
