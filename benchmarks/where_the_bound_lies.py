"""Show where the bounds of one run lie: ELBO, IWAE-50, IWAE-5000, PSIS, annealing.

    python benchmarks/where_the_bound_lies.py runs/tables/iwae/one-layer-vae-1-80000-0 \
        --root data --data 200 --temperatures 1000 --name iwae

All are of the first test data of the table. How far annealing itself may lie below log p(x) is
bounded on images simulated from the model, from below and from above (Grosse, Ghahramani, Adams,
2015). `--gaps N` splits the gap of the ELBO into those of the amortization and of the family of
posteriors on the first N (Cremer, Li, Duvenaud, 2018). The numbers are kept in
benchmarks/tables/NAME-bounds.json, and drawn in NAME-bounds.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from protocol import Table, row_of
from table_pages import HERE, tables, write

import pyrovae as pv

KS: Final = (50, 5000)


def loaded(run: Path, table: Table, root: str) -> tuple[pv.VAE, torch.Tensor]:
    """Return the VAE of a row's run, with the row's own programs, and its test data."""
    row = table.rows[row_of(table, run.name)]
    splits = (row.data or table.data)(root)
    made = row.make(splits.train.x)
    vae = pv.load(run, prior=made.prior, likelihood=made.likelihood, guide=made.posterior)
    return vae, splits.test.draw()


def numbers(value: torch.Tensor, over_particles: float) -> dict[str, float]:
    """Return the mean and the errors of an estimate per datum."""
    over_data = value.std().item() / len(value) ** 0.5
    return {"mean": value.mean().item(), "data": over_data, "particles": over_particles}


def measure(vae: pv.VAE, x: torch.Tensor, temperatures: int, gaps: int) -> dict[str, Any]:
    """Return each bound, its distance to that of annealing, and the gap of annealing itself."""
    with pv.seeded(0):
        annealed = pv.AIS(temperatures, limit=len(x), start="guide")(vae, x)
    report = pv.evaluate(vae, x, particles=max(KS), ks=KS)
    found = {"ELBO": report.elbo} | {f"IWAE-{k}": each for k, each in report.iwae.items()}
    found |= {f"PSIS-{report.particles}": report.psis, "annealing": annealed.lower}
    truth = annealed.lower.value.cpu()
    line = {
        "data": len(x),
        "temperatures": temperatures,
        "k-hat above 0.7": int((report.pareto_k > 0.7).sum()),
        "bounds": {n: numbers(e.value.cpu(), e.error_over_particles) for n, e in found.items()},
        "above annealing": {
            name: numbers(each.value.cpu() - truth, each.error_over_particles)
            for name, each in found.items()
            if name != "annealing"
        },
        "gap of annealing": numbers(annealed.gap.value.cpu(), annealed.gap.error_over_particles),
        "verdict": " ".join(annealed.verdict),
    }
    return line | ({"gaps": str(pv.Gaps(limit=gaps)(vae, x))} if gaps else {})


def figure(line: dict[str, Any], title: str) -> Any:
    """Return the distance of each bound to annealing, with two errors over data."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = drawn.subplots()
    names = list(line["above annealing"])
    for i, name in enumerate(names):
        each = line["above annealing"][name]
        axes.errorbar(
            each["mean"], -i, xerr=2 * each["data"], fmt="o", ms=5, capsize=4, color="C0"
        )
        label = f"{each['mean']:+.2f} ± {each['data']:.2f}"
        axes.annotate(label, (each["mean"], -i), (0, 7), textcoords="offset points", ha="center")
    gap = line["gap of annealing"]
    end = max(gap["mean"] + 2 * gap["data"], 0.0)
    axes.axvspan(0, end, color="C1", alpha=0.5, lw=0, label=f"gap on simulated data, to {end:.2f}")
    axes.axvline(0, color="C1", lw=1)
    axes.set(
        yticks=[-i for i in range(len(names))],
        yticklabels=names,
        ylim=(0.6 - len(names), 0.8),
        xlabel=f"nats above annealing, {line['data']} test data, ± 2 errors over data",
    )
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="a folder; none draws the kept numbers")
    parser.add_argument("--root", default="data", help="the folder of the data")
    parser.add_argument("--data", type=int, default=200, help="the number of test images")
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--gaps", type=int, default=0, metavar="N")
    sys.path.insert(0, str(HERE))
    by_name = tables()
    parser.add_argument("--name", required=True, choices=by_name, help="the name of the table")
    args = parser.parse_args()
    kept = HERE / f"{args.name}-bounds.json"
    if not (args.run or kept.exists()):
        parser.error(f"nothing is kept in {kept}: give the folder of a run")
    if args.run:
        vae, x = loaded(args.run, by_name[args.name], args.root)
        began = time.process_time()
        line = measure(vae, x[: args.data], args.temperatures, args.gaps)
        line |= {"run": args.run.name, "seconds": time.process_time() - began}
        line |= {"python": platform.python_version(), "torch": torch.__version__}
        line["command"] = shlex.join(
            ["python", "benchmarks/where_the_bound_lies.py", *sys.argv[1:]]
        )
        kept.write_text(json.dumps(line, indent=1) + "\n")
    line = json.loads(kept.read_text())
    table = by_name[args.name]
    title = row_of(table, line["run"])
    figure(line, title).savefig(HERE / f"{args.name}-bounds.png", dpi=130)
    write(args.name, table)
    print(json.dumps(line, indent=1))


if __name__ == "__main__":
    main()
