"""What `fit` adds to the compiled step: CPU time per step, and memory over the steps.

    OMP_NUM_THREADS=1 python benchmarks/fit_overhead.py
    OMP_NUM_THREADS=1 python benchmarks/fit_overhead.py --with bar csv ema clip

The data are 50,000 rows of random bits as wide as MNIST. After each epoch of `fit`, the same
number of bare compiled steps are taken of another VAE of the same shape, so that both meet the
same machine. Times are of the process, which other processes do not prolong.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae.train.step import default_loss

PIXELS, HIDDEN, LATENTS, BATCH = 784, 200, 50, 100


def made() -> pv.VAE:
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, HIDDEN, HIDDEN, PIXELS)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(PIXELS, HIDDEN, HIDDEN, 2 * LATENTS)),
    )


def optim() -> pv.Optim:
    return pv.Optim(torch.optim.Adam, lr=pv.learning_rates.cosine(1e-3, 100_000, warmup=100))


def megabytes() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class BesideBareSteps(pv.Callback):
    """Time the steps of each epoch, and as many bare steps after it."""

    def __init__(self, x: torch.Tensor, clip_norm: float | None) -> None:
        """Make the VAE whose bare steps are timed."""
        vae = made()
        loss = default_loss(vae.model, vae.guide, x[:BATCH])
        self.svi = pv.SVI(vae.model, vae.guide, optim(), loss, clip_norm=clip_norm)
        self.batches = x.split(BATCH)
        self.times: list[tuple[float, float, float]] = []
        self.memory: list[float] = []

    def started_epoch(self, training: pv.train.callbacks.Training) -> None:
        """Start the clock."""
        self.since = time.process_time()

    def measuring(self, training: pv.train.callbacks.Training) -> None:
        """Stop the clock of the steps."""
        self.stepped_at = time.process_time()

    def finished_epoch(self, training: pv.train.callbacks.Training) -> None:
        """Take the bare steps."""
        measured = time.process_time()
        for batch in self.batches:
            self.svi.step(batch)
        bare = time.process_time() - measured
        self.times.append((self.stepped_at - self.since, measured - self.stepped_at, bare))
        self.memory.append(megabytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--data", type=int, default=50_000)
    kinds = ["bar", "csv", "ema", "clip"]
    parser.add_argument("--with", nargs="*", default=[], choices=kinds, dest="more")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((args.data, PIXELS), 0.5))
    clip_norm = 10.0 if "clip" in args.more else None
    beside = BesideBareSteps(x, clip_norm)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = {
            "bar": pv.ProgressBar(),
            "csv": pv.Log(pv.CSVLogger(Path(folder) / "log.csv")),
            "ema": pv.EMA(0.999),
        }
        pv.fit(
            made(),
            x,
            epochs=1 + -(-args.steps * BATCH // args.data),
            batch_size=BATCH,
            step=pv.Step(optim(), compile=True, clip_norm=clip_norm),
            callbacks=[*(callbacks[name] for name in args.more if name in callbacks), beside],
        )
    # The first epoch compiles.
    per_step = 1000 / len(beside.batches)
    times = [tuple(per_step * value for value in row) for row in beside.times[1:]]
    for fit, measuring, bare in times:
        print(f"ms per step: fit {fit:.3f}, bare {bare:.3f}, measuring {measuring:.3f}")
    ratios = [fit / bare for fit, _, bare in times]
    fit, measuring, bare = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{torch.get_num_threads()} threads; median of {len(times)} epochs of "
        f"{len(beside.batches)} steps: fit {fit:.3f} ms, bare {bare:.3f} ms per step, "
        f"overhead {100 * (statistics.median(ratios) - 1):+.1f} %; measuring the ELBO adds "
        f"{measuring:.3f} ms per step"
    )
    print(f"memory after each epoch, MB: {', '.join(f'{mb:.0f}' for mb in beside.memory)}")


if __name__ == "__main__":
    main()
