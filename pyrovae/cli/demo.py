"""Run `pyrovae demo`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final

from pyrovae import plots
from pyrovae.cli import (
    build,
    experiment,
)
from pyrovae.cli.complaints import INTERRUPTED, SIGTERMED, complain
from pyrovae.cli.evaluations import save_report
from pyrovae.cli.experiment import Tables
from pyrovae.cli.figures import report_figures, save_figures, vae_figures
from pyrovae.cli.signals import TERMINATED
from pyrovae.cli.train import fitted
from pyrovae.measure.evaluate import evaluate as measure
from pyrovae.runs import Run
from pyrovae.runs import folder as folders
from pyrovae.runs.sources import Source
from pyrovae.train.checkpoint import Checkpoint

__all__ = ["demo"]

DEMO: Final[Tables] = {
    "prior": {"latents": 8},
    "net": {"hidden": [200]},
    "data": {"binarization": "dynamic"},
    "training": {"batch_size": 50, "lr": 4e-3},
}


def demo(out: Path, *, epochs: int, particles: int, command: Sequence[str]) -> int:
    """Train and evaluate a small VAE on scikit-learn's digits, and draw its figures."""
    tables = experiment.layered([DEMO, {"training": {"epochs": epochs}}])
    folders.refuse(out, overwrite=_is_demo(out))
    with folders.held(out):
        source = Source("digits", binarization="dynamic")
        data = source.load()
        print(
            f"Data: {len(data.train):,} handwritten digits of 8 x 8 pixels to train on, "
            f"{len(data.test)} to test on (scikit-learn's; no download).\n"
            f"Model: z ~ N(0, I), {DEMO['prior']['latents']} latents; x ~ Bernoulli(net(z)), one "
            f"unit for each pixel, drawn afresh at each use.\nGuide: q(z | x), a normal whose "
            f"mean and scale a network reads off x.\nTraining {epochs} epochs with pyro.infer.SVI "
            "...",
            flush=True,
        )
        vae = build.vae(tables, data)
        source = source.of(source.read_data())
        details: dict[str, Any] = {"demo": True, "data": source.record, "experiment": tables}
        checkpoint = Checkpoint(out, seed=0, command=list(command), **details)
        history = fitted(vae, data, tables, checkpoint, every=max(1, epochs // 5))
        if history.ended == "interrupted":
            return complain("interrupted", INTERRUPTED)
        if TERMINATED in history.ended:
            return complain(history.ended, SIGTERMED)
        print(f"Measuring log p(x) from below with {particles:,} particles ...", flush=True)
        report = measure(vae, data.test, particles=particles, seed=0)
        run = Run(out)
        hashed = run.parameters_hash
        save_report(report, run, source, split="test", command=list(command), parameters=hashed)
        print(report)
        figures = vae_figures(vae, data.test, data.shape) | {"history": plots.history(history)}
        figures |= report_figures(report, vae, data.test.draw(), data.shape)
        save_figures(figures, run)
    print(_after_demo(out))
    return INTERRUPTED if report.partial else 0


def _after_demo(folder: Path) -> str:
    figures = "\n  ".join(str(path) for path in sorted((folder / "figures").glob("*.png")))
    run = quote(str(folder))
    return (
        f"\nThe run is in {folder}: the VAE, its history, its evaluation, and\n  {figures}"
        f"\n\nNext:\n  pyrovae sample {run} -n 100 --out samples.png"
        f"\n  pyrovae report {run}"
        f"\n  pyrovae evaluate {run} --particles 5000 --ais 1000 --gaps --latents"
        f"\n  pyrovae train --data digits --guide FullRankNormal --out runs/full-rank"
        f'\n  python -c "import pyrovae as pv; print(pv.load({str(folder)!r}))"'
    )


def _is_demo(folder: Path) -> bool:
    with contextlib.suppress(ValueError):
        return bool(Run(folder).config.get("demo"))
    return False
