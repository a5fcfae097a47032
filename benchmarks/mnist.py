"""Train variants on MNIST with the same budget and compare their IWAE-1000 on the test images.

    python benchmarks/mnist.py objectives --root data --out runs/objectives
    python benchmarks/mnist.py priors --root data --epochs 50 --out runs/priors
    python benchmarks/mnist.py guides --root data --epochs 50 --out runs/guides

Each contestant is a VAE 784-200-200-50 with tanh, batch 100, Adam at 1e-3, dynamic binarization,
seed 0; a table compares each with its first line, paired over the test images (the first so many
with `--limit`). What is done stands in the folder: an interrupted run goes on with the lines that
are not, `--only` runs some of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from safetensors.torch import load_file
from torch import Tensor

import pyrovae as pv
from pyrovae.measure.latents.active_units import active_units
from pyrovae.objectives import IWAE
from pyrovae.weights.bounds import Estimate

LATENTS, HIDDEN, PIXELS = 50, (200, 200), 784


def network(*sizes: int) -> pv.nets.MLP:
    return pv.nets.MLP(*sizes, activation=torch.nn.Tanh)


def encoder(outputs: int) -> pv.nets.MLP:
    return network(PIXELS, *HIDDEN, outputs)


def mean_field() -> pv.guides.MeanFieldNormal:
    return pv.guides.MeanFieldNormal(encoder(2 * LATENTS))


def make(x: Tensor, *, prior: Any = None, guide: Any = None) -> pv.VAE:
    """Return a VAE; what is not given is standard normal and mean-field."""
    likelihood = pv.likelihoods.Bernoulli(network(LATENTS, *HIDDEN, PIXELS)).start_at_mean(x)
    prior = prior or pv.priors.StandardNormal(LATENTS)
    return pv.VAE(prior=prior, likelihood=likelihood, guide=guide or mean_field())


def vampprior(x: Tensor) -> pv.VAE:
    guide = mean_field()
    return make(x, prior=pv.priors.VampPrior(guide, 500).start_at_data(x), guide=guide)


Contestant = tuple[Callable[[Tensor], pv.VAE], Any]

TABLES: dict[str, dict[str, Contestant]] = {
    "objectives": {
        "ELBO": (make, Trace_ELBO()),
        "IWAE-50, plain gradient": (make, IWAE(50)),
        "IWAE-50, DReG": (make, IWAE(50, gradient="dreg")),
    },
    "priors": {
        "standard normal": (make, None),
        "mixture of 50 normals": (
            lambda x: make(x, prior=pv.priors.MixtureOfNormals(LATENTS, 50)),
            None,
        ),
        "VampPrior, 500": (vampprior, None),
        "flow": (lambda x: make(x, prior=pv.priors.Flow(LATENTS, kind="affine")), None),
    },
    "guides": {
        "mean-field": (make, None),
        "low-rank": (
            lambda x: make(
                x,
                guide=pv.guides.LowRankNormal(
                    encoder(pv.guides.LowRankNormal.width(LATENTS, 5)), 5
                ),
            ),
            None,
        ),
        "flow": (
            lambda x: make(
                x,
                guide=pv.guides.Flow(
                    encoder(100), LATENTS, features=100, kind="affine", transforms=2, hidden=320
                ),
            ),
            None,
        ),
    },
}


def run(name: str, contestant: Contestant, data: Any, args: Any, out: Path) -> None:
    """Train and measure one contestant, and keep the numbers in its folder."""
    make_vae, loss = contestant
    torch.manual_seed(0)
    vae = make_vae(data.train.x)
    print(f"{name}: {args.epochs} epochs", flush=True)
    history = pv.fit(
        vae,
        data.train,
        validation=data.validation,
        epochs=args.epochs,
        batch_size=100,
        step=pv.Step(pyro.optim.Adam({"lr": 1e-3}), loss=loss, compile=True),
        callbacks=[pv.ProgressBar(every=5), pv.Checkpoint(out)],
    )
    x = data.test.draw()[: args.limit]
    report = pv.evaluate(vae, x, particles=1000, ks=[1000], compile=True)
    report.save(
        out / "evaluation.json",
        contestant=name,
        epochs=args.epochs,
        active_units=active_units(vae, x).count,
        seconds_of_steps=sum(history.column("seconds")),
    )


def table(folders: dict[str, Path]) -> str:
    """Return the table in Markdown: IWAE-1000, its difference from the first line, paired."""
    lines = [
        "| | IWAE-1000 | over the first | ELBO | KL | active units | s of steps |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first: Tensor | None = None
    for name, folder in folders.items():
        if not (folder / "evaluation.json").exists():
            lines.append(f"| {name} | not run | | | | | |")
            continue
        said = json.loads((folder / "evaluation.json").read_text())
        bound = load_file(folder / "evaluation.safetensors")["IWAE-1000"].double()
        first = bound if first is None else first
        gain = Estimate(bound - first, torch.zeros_like(bound))
        found = said["quantities"]
        lines.append(
            f"| {name} | {found['IWAE-1000']['mean']:.2f} ± "
            f"{found['IWAE-1000']['error_over_data']:.2f} | "
            f"{gain.mean:+.2f} ± {gain.error_over_data:.2f} | {found['ELBO']['mean']:.2f} | "
            f"{found['KL, Monte Carlo']['mean']:.2f} | {said['active_units']} | "
            f"{said['seconds_of_steps']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="so many test images only")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these lines only")
    args = parser.parse_args()
    contestants = TABLES[args.table]
    unknown = set(args.only) - set(contestants)
    if unknown:
        parser.error(f"no line {sorted(unknown)}; the lines are {list(contestants)}")
    data = pv.data.load("mnist", args.root)
    folders = {name: args.out / f"{i}" for i, name in enumerate(contestants)}
    for folder in folders.values():
        kept = folder / "evaluation.json"
        if kept.exists() and (epochs := json.loads(kept.read_text())["epochs"]) != args.epochs:
            parser.error(f"{folder} holds a run of {epochs} epochs: give each budget its --out")
    for name, contestant in contestants.items():
        wanted = name in args.only or not args.only
        if wanted and not (folders[name] / "evaluation.json").exists():
            run(name, contestant, data, args, folders[name])
    print(table(folders))


if __name__ == "__main__":
    main()
