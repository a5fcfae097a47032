"""Train deep Markov models of Bach's chorales: Pyro's example script, its nets as our parts, ours.

    git clone https://github.com/pyro-ppl/pyro
    python benchmarks/chorales.py pyro jsb-chorales-quarter.json --script pyro/examples/dmm.py
    python benchmarks/chorales.py theirs jsb-chorales-quarter.json
    python benchmarks/chorales.py ours jsb-chorales-quarter.json
    python benchmarks/chorales.py padded jsb-chorales-quarter.json
    python benchmarks/chorales.py fivo jsb-chorales-quarter.json
    python benchmarks/chorales.py epoch jsb-chorales-quarter.json

`pyro` runs the script as it is, on the chorales of the file instead of those it would download.
`theirs` trains the same networks with the same optimizer, KL weights and batches by `fit`, and
`ours` those of `examples/deep_markov.py`, both in batches by length. `padded` is `ours` in padded
batches, and `fivo` trains it for particle filters of four particles. Printed are the -ELBO, the
-IWAE and what particle filters find on the test split, in nats per step; the script prints its
one-sample -ELBO, of the epochs at multiples of 50 only. `epoch` times epochs of padded batches and
of batches by length, in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import runpy
import statistics
import sys
import time
import unittest.mock
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.optim import ClippedAdam
from torch import Tensor, nn

import pyrovae as pv

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from deep_markov import KEYS, chorales, make_vae  # noqa: E402

LATENTS, EMISSION, TRANSITION, READER = 100, 100, 200, 600
"""The sizes of the script."""

ROUNDS = 5
"""The epochs of each way that are timed."""


class Transition(nn.Module):
    """Their gated transition: means, then unconstrained scales."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = pv.nets.MLP(LATENTS, TRANSITION, LATENTS)
        self.proposed = pv.nets.MLP(LATENTS, TRANSITION, LATENTS)
        self.scale, self.loc = nn.Linear(LATENTS, LATENTS), nn.Linear(LATENTS, LATENTS)
        nn.init.eye_(self.loc.weight)
        nn.init.zeros_(self.loc.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return means and unconstrained scales of the next step."""
        gate, proposed = self.gate(z).sigmoid(), self.proposed(z)
        loc = (1 - gate) * self.loc(z) + gate * proposed
        return torch.cat([loc, self.scale(proposed.relu())], -1)


class Combined(nn.Module):
    """Their combiner of the latents before with what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(LATENTS, READER), nn.Linear(READER, 2 * LATENTS)

    def forward(self, z: Tensor, read: Tensor) -> Tensor:
        """Return means and unconstrained scales of the posterior's step."""
        return self.outer(0.5 * (self.inner(z).tanh() + read))


class Reader(nn.Module):
    """Their reader, a backward network of rectified units."""

    def __init__(self) -> None:
        super().__init__()
        self.backward = pv.nets.BackwardGRU(KEYS, READER)
        self.backward.gru = nn.RNN(KEYS, READER, nonlinearity="relu", batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return what is read of each step and of those after it."""
        return self.backward(x, mask)


def their_vae() -> pv.VAE:
    """Return the model of the script as our parts."""
    emission = pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, EMISSION, EMISSION, KEYS))
    return pv.VAE(
        prior=pv.priors.Markov(Transition(), LATENTS),
        likelihood=pv.likelihoods.EachStep(emission),
        guide=pv.guides.Combiner(Reader(), Combined(), LATENTS),
    )


def their_step(epochs: int, batches: int) -> pv.Step:
    """Return the optimizer and KL weights of the script, with its default arguments."""
    settings = {
        "lr": 3e-4,
        "betas": (0.96, 0.999),
        "clip_norm": 10.0,
        "lrd": 0.99996,
        "weight_decay": 2.0,
    }
    return pv.Step(
        optim=ClippedAdam(settings),
        kl_weight=pv.schedules.linear(0.2, 1, max(1, epochs // 5)),
        compile=False,
    )


def our_step(epochs: int, batches: int) -> pv.Step:
    """Return the step of `examples/deep_markov.py`."""
    return pv.Step(
        optim=pv.Optim(torch.optim.Adam, lr=pv.learning_rates.cosine(3e-3, epochs * batches)),
        kl_weight=pv.schedules.linear(0.1, 1, epochs // 4 + 1),
        clip_norm=1e4,
        compile=False,
    )


def fivo_step(epochs: int, batches: int) -> pv.Step:
    """Return the step that trains for particle filters."""
    step = our_step(epochs, batches)
    return dataclasses.replace(step, loss=pv.objectives.FIVO(4), kl_weight=1.0)


STEPS = {"theirs": their_step, "ours": our_step, "padded": our_step, "fivo": fivo_step}


def time_epochs(train: tuple[Tensor, Tensor]) -> None:
    """Print the CPU seconds of an epoch of `ours`, padded and by length, and their ratio."""
    ways: dict[str, Any] = {"padded": train, "by length": pv.data.ByLength(*train, batch_size=20)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, data in ways.items():
            torch.manual_seed(0)
            vae, began = make_vae(), time.process_time()
            pv.fit(vae, data, epochs=1, batch_size=20, step=our_step(1, 12), callbacks=[])
            seconds[way].append(time.process_time() - began)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    print({way: round(median, 2) for way, median in medians.items()})
    print(f"ratio of medians: {medians['by length'] / medians['padded']:.2f}")


def run_script(script: str, data: dict[str, tuple[Tensor, Tensor]], arguments: list[str]) -> None:
    """Run Pyro's script on these chorales."""
    from pyro.contrib.examples import polyphonic_data_loader as loader

    loader.load_data = lambda dataset: {
        split: {"sequences": x, "sequence_lengths": mask.sum(1)}
        for split, (x, mask) in data.items()
    }
    sys.argv = [script, *arguments]
    # The script asserts the release of Pyro that it came with.
    with unittest.mock.patch.object(pyro, "__version__", "1.9.1"):
        runpy.run_path(script, run_name="__main__")


def measure(vae: pv.VAE, test: tuple[Tensor, Tensor], particles: int) -> dict[str, Any]:
    """Return bounds in nats per step, each with its error over chorales."""
    x, mask = test
    steps = mask.sum(1).float()

    def per_step(value: Tensor) -> dict[str, float]:
        """Return the ratio of sums and its error (Cochran, 1977, chapter 6)."""
        ratio = (value.sum() / steps.sum()).item()
        spread = (value - ratio * steps).std().item() / math.sqrt(len(steps))
        return {"mean": -ratio, "over_data": spread / steps.mean().item()}

    report = pv.evaluate(vae, test, particles=particles)
    with pv.seeded(0):
        found = pv.ParticleFilter(particles, repeats=5)(vae, x, mask)
    bounds = {"ELBO": report.elbo, f"IWAE-{particles}": report.iwae[particles]}
    bounds |= {"one filter": found.single, "five filters": found.lower}
    return {name: per_step(each.value) for name, each in bounds.items()} | {
        "filter": str(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=["pyro", *STEPS, "epoch"])
    parser.add_argument("data", help="the .json file of the chorales")
    parser.add_argument("--script", help="the path of Pyro's examples/dmm.py")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--particles", type=int, default=200)
    args = parser.parse_args()
    data, began = chorales(args.data), time.process_time()
    if args.row == "pyro":
        epochs = ["-n", str(args.epochs + 1), "-ae", str(args.epochs // 5)]
        run_script(args.script, data, epochs)
        print(f"{time.process_time() - began:.0f} CPU s, measurements included")
        return
    if args.row == "epoch":
        time_epochs(data["train"])
        return
    torch.manual_seed(0)
    vae = their_vae() if args.row == "theirs" else make_vae()
    batches = pv.data.ByLength(*data["train"], batch_size=20)
    pv.fit(
        *(vae, data["train"] if args.row == "padded" else batches),
        epochs=args.epochs,
        batch_size=20,
        step=STEPS[args.row](args.epochs, len(batches)),
        seed=0,
        callbacks=[pv.ProgressBar(every=10)],
    )
    seconds = time.process_time() - began
    line = {"row": args.row, "epochs": args.epochs, "seconds": seconds}
    found = measure(vae, data["test"], args.particles)
    print(found.pop("filter"))
    print(json.dumps(line | found, indent=1))


if __name__ == "__main__":
    main()
