"""Signal-to-noise ratio and variance of IWAE's gradient against K, for plain, STL and DReG.

    python benchmarks/gradients.py --run FOLDER --root data --out gradients.png

The VAE is a trained one, such as a run of `benchmarks/tables.py parts`, the data a fixed batch of
test images, the gradient that of all weights of the guide or of the likelihood. With g its draws,
the ratio is |E g| / sqrt(tr Cov g), the square of the mean freed of its noise; the variance is
tr Cov g. Plain IWAE's signal for the guide falls with K (Rainforth et al., 2018), DReG's does not
(Tucker et al., 2019); STL's is strong and, for K > 1, biased.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyro
import torch
from rich.progress import track
from torch import Tensor

import pyrovae as pv
from pyrovae.objectives import IWAE
from pyrovae.objectives.gradients import GRADIENTS

COLOURS = {"plain": "#c44e52", "stl": "#8172b3", "dreg": "#4c72b0"}


class Moments:
    """The running mean and variance of a vector."""

    def __init__(self) -> None:  # noqa: D107
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, draw: Tensor) -> None:
        """Take in one draw (Welford, 1962)."""
        self.count += 1
        distance = draw - self.mean
        self.mean = self.mean + distance / self.count
        self.squares = self.squares + distance * (draw - self.mean)

    def summary(self) -> dict[str, float]:
        """Return the ratio of signal to noise and the variance, each over the whole vector."""
        variance = self.squares.sum().item() / (self.count - 1)
        signal = self.mean.square().sum().item() - variance / self.count
        return {"snr": math.sqrt(max(signal, 0.0) / variance), "variance": variance}


def measure(vae: pv.VAE, x: Tensor, objective: IWAE, draws: int) -> dict[str, dict[str, float]]:
    """Return the moments of both programs' gradients per datum."""
    svi = pv.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    parts = {"guide": vae.posterior, "likelihood": vae.likelihood}
    moments = {name: Moments() for name in parts}
    said = f"K = {objective.num_particles}, {objective.gradient}"
    for _ in track(range(draws), description=said):
        _, parameters = svi.gradients(x)
        for name, part in parts.items():
            grads = [p.grad.flatten().double() / len(x) for p in part.parameters()]
            moments[name].add(torch.cat(grads))
        for parameter in parameters:
            parameter.grad = None
    return {name: found.summary() for name, found in moments.items()}


def draw_figure(found: list[dict[str, Any]], path: Path) -> None:
    """Draw ratio and variance over K, guide and likelihood."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 6), sharex=True, layout="constrained")
    titles = {"snr": "signal-to-noise ratio", "variance": "variance (nats$^2$)"}
    for row, (quantity, title) in zip(axes, titles.items(), strict=True):
        for axis, part in zip(row, ("guide", "likelihood"), strict=True):
            for gradient in GRADIENTS:
                lines = [line for line in found if line["gradient"] == gradient]
                values = [line[part][quantity] for line in lines]
                ks = [line["k"] for line in lines]
                axis.plot(ks, values, "o-", color=COLOURS[gradient], label=gradient)
            axis.set(xscale="log", yscale="log", title=f"{part}: {title}")
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("particles K")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def table(found: list[dict[str, Any]]) -> str:
    """Return the ratios in Markdown."""
    ks = sorted({line["k"] for line in found})
    lines = ["| | " + " | ".join(f"K = {k}" for k in ks) + " |", "|---|" + "---:|" * len(ks)]
    for part in ("guide", "likelihood"):
        for gradient in GRADIENTS:
            cells = [line[part]["snr"] for line in found if line["gradient"] == gradient]
            lines.append(f"| {part}, {gradient} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="the folder of a VAE trained on MNIST")
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--draws", type=int, default=400, help="of the gradient, at each K")
    parser.add_argument("--batch", type=int, default=20, help="test images")
    parser.add_argument("--out", type=Path, default=Path("gradients.png"))
    args = parser.parse_args()
    vae = pv.load(args.run)
    x = pv.data.load("mnist", args.root).test.draw()[: args.batch]
    torch.manual_seed(0)
    found = [
        {"k": k, "gradient": gradient, **measure(vae, x, IWAE(k, gradient=gradient), args.draws)}
        for gradient in GRADIENTS
        for k in args.ks
    ]
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    draw_figure(found, args.out)
    print(table(found))


if __name__ == "__main__":
    main()
