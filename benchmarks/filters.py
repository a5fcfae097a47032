"""Show how far one weight for a sequence, and a particle filter, spread around log p(x).

    python benchmarks/filters.py

The world is the linear-Gaussian state space of `tests/support/state_space.py`, whose log p(x) is
Kalman's, with its poor guide. Each variance is that of log p-hat over 400 seeds, on one sequence
and its first T steps; its error is that of the variance of normal numbers. Draws filters.png.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.weights.filtering import StateSpace, filter_particles

HERE: Final = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "support"))
import state_space  # noqa: E402

REPEATS: Final = 400
LENGTHS: Final = (1, 2, 4, 8, 16, 32, 64)
PARTICLES: Final = (4, 16, 64, 256, 1024)
FEW, LONG = 100, 16

PAIR: Final = (state_space.model, state_space.poor_guide)


def by_one_weight(x: Tensor, mask: Tensor, particles: int) -> Tensor:
    """Return log p-hat of each sequence by importance weights of whole sequences, [N]."""
    log_w = pv.log_weights(PAIR, x, mask, particles=particles)
    return log_w.logsumexp(0) - math.log(particles)


def by_filter(x: Tensor, mask: Tensor, particles: int) -> Tensor:
    """Return log p-hat of each sequence by particle filters, [N]."""
    return filter_particles(StateSpace.of(*PAIR, x, mask), particles).log_z


WAYS: Final = {
    "one weight for a sequence (IWAE)": by_one_weight,
    "particle filter (FIVO)": by_filter,
}


def measured(length: int, particles: int) -> dict[str, dict[str, float]]:
    """Return the variance of log p-hat, its mean distance to log p(x), and p-hat over p(x)."""
    one = state_space.masked(max(LENGTHS))
    x = state_space.sequences(one, seed=3)[:, :length]
    truth = state_space.log_evidence(x, one[:, :length])
    many, mask = x.expand(REPEATS, -1, -1), one[:, :length].expand(REPEATS, -1)
    found = {}
    for name, way in WAYS.items():
        error = way(many, mask, particles) - truth
        ratio = error.exp()
        found[name] = {
            "variance": error.var().item(),
            "bias": error.mean().item(),
            "ratio": ratio.mean().item(),
            "ratio_error": ratio.std().item() / math.sqrt(REPEATS),
        }
    return found


def panel(axes: Any, xs: tuple[int, ...], found: list[dict[str, Any]], label: str) -> None:
    """Draw the variances with two errors."""
    for i, name in enumerate(WAYS):
        ys = [each[name]["variance"] for each in found]
        error = [2 * y * math.sqrt(2 / (REPEATS - 1)) for y in ys]
        axes.errorbar(xs, ys, yerr=error, marker="os"[i], ms=5, capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xticks=xs, xticklabels=[str(x) for x in xs], xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    over_steps = [measured(length, FEW) for length in LENGTHS]
    over_particles = [measured(LONG, particles) for particles in PARTICLES]
    print("| T | K | way | variance | mean of log p-hat - log p | p-hat / p |")
    print("|---:|---:|---|---:|---:|---:|")
    settings = [(t, FEW) for t in LENGTHS] + [(LONG, k) for k in PARTICLES]
    for (length, k), found in zip(settings, over_steps + over_particles, strict=True):
        for name, each in found.items():
            ratio = f"{each['ratio']:.3f} ± {each['ratio_error']:.3f}"
            print(
                f"| {length} | {k:,} | {name} | {each['variance']:.4g} "
                f"| {each['bias']:+.4g} | {ratio} |"
            )
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    panel(left, LENGTHS, over_steps, f"steps T, {FEW} particles")
    panel(right, PARTICLES, over_particles, f"particles K, {LONG} steps")
    last = over_particles[-1]["particle filter (FIVO)"]["variance"] * PARTICLES[-1]
    right.plot(PARTICLES, [last / k for k in PARTICLES], "--", color="gray", lw=1, label="1 / K")
    left.set_ylabel("variance of log p-hat, nats²")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "filters.png", dpi=130)


if __name__ == "__main__":
    main()
