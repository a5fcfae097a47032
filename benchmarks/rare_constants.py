"""What torch's `log1p`, a step and an evaluation take without the constant that the package loads.

    OMP_NUM_THREADS=1 python benchmarks/rare_constants.py

With and without take turns, each in a process of its own (`pyrovae/graphs/rare_constants.py` says
what the constant is). A VAE 784-400-2x50 and 50-400-784; a compiled step of Adam on 100 images of
random bits, and an uncompiled evaluation of 50 of them with 1,000 particles.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

PIXELS, HIDDEN, LATENTS = 784, 400, 50


def median_of(run: Callable[[], Any], times: int) -> float:
    """Return the median of the processor's seconds."""
    found = []
    for _ in range(times):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return statistics.median(found)


def measured(kind: str) -> dict[str, float]:
    """Return the times of this process, which has not imported the package yet."""
    if kind == "without":
        stub = ModuleType("pyrovae.graphs.rare_constants")
        stub.load_rare_constants = lambda: None  # type: ignore[attr-defined]
        sys.modules[stub.__name__] = stub
    import pyrovae as pv
    from pyrovae.train.step import default_loss

    torch.manual_seed(0)
    x = torch.rand(100, PIXELS).round()
    vae = pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, HIDDEN, PIXELS)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(PIXELS, HIDDEN, 2 * LATENTS)),
    )
    loss = default_loss(vae.model, vae.guide, x)
    svi = pv.SVI(vae.model, vae.guide, pv.Optim(torch.optim.Adam, lr=1e-3), loss)
    for _ in range(20):
        svi.step(x)
    numbers = torch.rand(500, PIXELS)
    return {
        "ms for a step": 1e3 * median_of(lambda: svi.step(x), 200),
        "s for an evaluation": median_of(
            lambda: pv.evaluate(vae, x[:50], particles=1000, compile=False), 3
        ),
        "ns for log1p": 1e9 * median_of(lambda: torch.log1p(numbers), 10) / numbers.numel(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--process", choices=["with", "without"], help="of one, as JSON")
    args = parser.parse_args()
    if args.process:
        print(json.dumps(measured(args.process)))
        return
    found: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for _ in range(args.rounds):
        for kind, lines in found.items():
            command = [sys.executable, __file__, "--process", kind]
            lines.append(json.loads(subprocess.check_output(command, text=True)))
    for name in found["with"][0]:
        without, with_ = (statistics.median(x[name] for x in found[kind]) for kind in found)
        print(f"{name}: without {without:.2f}, with {with_:.2f}, ratio {with_ / without:.2f}")


if __name__ == "__main__":
    main()
