"""How long a step of IWAE-50 takes when its batch is computed in parts, `Step(accumulate=...)`.

    OMP_NUM_THREADS=1 python benchmarks/parts_of_a_batch.py

A tensor of 50 particles of 500 images of MNIST's size takes 78 MB, more than a processor's cache;
of a fifth of the images, 16 MB. The gradient of the step is the same. The numbers of parts take
turns; the times are of the process, and the epoch that compiles is not counted.
"""

import argparse
import statistics
import time

import torch

import pyrovae as pv

PIXELS, HIDDEN, LATENTS, BATCH, PARTICLES, STEPS = 784, 200, 50, 500, 50, 4


class Clock(pv.Callback):
    """Keep the seconds of the steps of each epoch."""

    def __init__(self) -> None:
        """Start without a time."""
        self.seconds: list[float] = []

    def started_epoch(self, training: pv.train.callbacks.Training) -> None:
        """Start the clock."""
        self.since = time.process_time()

    def measuring(self, training: pv.train.callbacks.Training) -> None:
        """Stop the clock."""
        self.seconds.append(time.process_time() - self.since)


def seconds_per_step(x: torch.Tensor, parts: int, epochs: int) -> list[float]:
    torch.manual_seed(0)
    vae = pv.mlp_vae(PIXELS, hidden=(HIDDEN, HIDDEN), latents=LATENTS)
    step = pv.Step(
        pv.Optim.muon(1000),
        loss=pv.objectives.IWAE(PARTICLES),
        compile=True,
        accumulate=parts,
    )
    clock = Clock()
    pv.fit(vae, x, epochs=1 + epochs, batch_size=BATCH // parts, step=step, callbacks=[clock])
    return [seconds / STEPS for seconds in clock.seconds[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 5, 10, 25])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if any(parts < 1 or BATCH % parts for parts in args.parts):
        parser.error(f"--parts are divisors of {BATCH}; got {args.parts}")
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((STEPS * BATCH, PIXELS), 0.5))
    times: dict[int, list[float]] = {parts: [] for parts in args.parts}
    for _ in range(args.rounds):
        for parts, found in times.items():
            found += seconds_per_step(x, parts, epochs=2)
    whole = statistics.median(times[args.parts[0]])
    for parts, found in times.items():
        median = statistics.median(found)
        print(f"{parts} parts of {BATCH // parts}: {median:.3f} s, {median / whole:.2f}")


if __name__ == "__main__":
    main()
