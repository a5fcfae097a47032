"""Show how far one weight for a sequence, and particle filters, spread around log p(x).

    python benchmarks/filters.py

The first world is the linear-Gaussian state space of `tests/support/state_space.py`, whose log
p(x) is Kalman's, with its poor guide. In the second, `tests/support/pushed_states.py`, a latent
pushes two linear states: the plain filter samples all three from the prior, the Rao-Blackwellized
one samples the latent and integrates the states out. Each variance is that of log p-hat over 400
seeds, on one sequence and its first T steps; its error is that of the variance of normal numbers.
Draws filters.png.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.weights.filtering import StateSpace, filter_particles

HERE: Final = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "support"))
import pushed_states  # noqa: E402
import state_space  # noqa: E402

REPEATS: Final = 400
LENGTHS: Final = (1, 2, 4, 8, 16, 32, 64)
PARTICLES: Final = (4, 16, 64, 256, 1024)
FEW, LONG = 100, 16

MASK: Final = state_space.masked(max(LENGTHS))
PAIR: Final = (state_space.model, state_space.poor_guide)


def by_one_weight(x: Tensor, mask: Tensor, particles: int) -> Tensor:
    """Return log p-hat of each sequence by importance weights of whole sequences, [N]."""
    log_w = pv.log_weights(PAIR, x, mask, particles=particles)
    return log_w.logsumexp(0) - math.log(particles)


def by_filter(pair: Any, x: Tensor, mask: Tensor, particles: int) -> Tensor:
    """Return log p-hat of each sequence by particle filters, [N]."""
    return filter_particles(StateSpace.of(*pair, x, mask), particles).log_z


Ways = dict[str, Callable[..., Tensor]]

WAYS: Final[Ways] = {
    "one weight for a sequence (IWAE)": by_one_weight,
    "particle filter (FIVO)": partial(by_filter, PAIR),
}

WITH_STATES: Final[Ways] = {
    "plain filter": partial(by_filter, (pushed_states.sampled, pushed_states.bootstrap_of_both)),
    "Rao-Blackwellized": partial(by_filter, (pushed_states.integrated, pushed_states.bootstrap)),
}


def linear() -> tuple[Tensor, Ways, Callable[[Tensor], Tensor]]:
    """Return a sequence of the first world, the ways to estimate log p, and the truth."""
    x = state_space.sequences(MASK, seed=3)
    return x, WAYS, lambda x: state_space.log_evidence(x, MASK[:, : x.shape[1]])


def pushed() -> tuple[Tensor, Ways, Callable[[Tensor], Tensor]]:
    """Return those of the second world."""
    with pv.seeded(3):
        x = pushed_states.integrated(None, MASK)
    return x, WITH_STATES, lambda x: pushed_states.evidence(x[0])


def measured(world: Callable[[], Any], length: int, particles: int) -> dict[str, dict[str, float]]:
    """Return the variance of log p-hat, its mean distance to log p(x), and p-hat over p(x)."""
    x, ways, evidence = world()
    x = x[:, :length]
    truth = evidence(x)
    many, mask = x.expand(REPEATS, -1, -1), MASK[:, :length].expand(REPEATS, -1)
    found = {}
    for name, way in ways.items():
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
    for i, name in enumerate(found[0]):
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
    over_steps = [measured(linear, length, FEW) for length in LENGTHS]
    over_particles = [measured(linear, LONG, particles) for particles in PARTICLES]
    of_states = [measured(pushed, length, FEW) for length in LENGTHS]
    print("| T | K | way | variance | mean of log p-hat - log p | p-hat / p |")
    print("|---:|---:|---|---:|---:|---:|")
    steps = [(t, FEW) for t in LENGTHS]
    settings = [*steps, *[(LONG, k) for k in PARTICLES], *steps]
    for (length, k), found in zip(settings, over_steps + over_particles + of_states, strict=True):
        for name, each in found.items():
            ratio = f"{each['ratio']:.3f} ± {each['ratio_error']:.3f}"
            print(
                f"| {length} | {k:,} | {name} | {each['variance']:.4g} "
                f"| {each['bias']:+.4g} | {ratio} |"
            )
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, right, states = figure.subplots(1, 3)
    panel(left, LENGTHS, over_steps, f"steps T, {FEW} particles")
    panel(states, LENGTHS, of_states, f"steps T, {FEW} particles, linear states")
    panel(right, PARTICLES, over_particles, f"particles K, {LONG} steps")
    last = over_particles[-1]["particle filter (FIVO)"]["variance"] * PARTICLES[-1]
    right.plot(PARTICLES, [last / k for k in PARTICLES], "--", color="gray", lw=1, label="1 / K")
    left.set_ylabel("variance of log p-hat, nats²")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    states.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "filters.png", dpi=130)


if __name__ == "__main__":
    main()
