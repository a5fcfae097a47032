"""How many decoder passes a second an importance-weighted bound takes, as a share of the machine.

    python benchmarks/nll_throughput.py --threads 1 2

The VAE: 784-400-2x50 and 50-400-784 with ReLU, Bernoulli likelihood, untrained (the time does not
depend on the weights), IWAE-K on binary data. The contestants take turns in each round; the
figure is the median over rounds. The yardstick is the machine's own float32 matrix product,
torch's and oneDNN's, on matrices as tall as a chunk, in the same rounds; a pass counts the
decoder's two. Peak memory
is that of a process of its own, above what it held before, at K = 50 and at K = 5,000.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

PIXELS, HIDDEN, LATENTS = 784, 400, 50
OPERATIONS = 2 * (LATENTS * HIDDEN + HIDDEN * PIXELS)
CHUNK = 5_000
PRODUCTS = 20


def data_and_networks(rows: int):
    import torch
    from step_time import networks

    torch.manual_seed(0)
    return torch.bernoulli(torch.full((rows, PIXELS), 0.13)), *networks()


def raw_torch(particles: int, rows: int):
    import torch
    from torch.nn import functional as F

    x, encoder, decoder = data_and_networks(rows)

    @torch.no_grad()
    def bound() -> float:
        found = []
        step = max(1, CHUNK // particles)
        for part in x.split(step):
            loc, raw = encoder(part).chunk(2, -1)
            scale = F.softplus(raw) + 1e-5
            noise = torch.randn(particles, *loc.shape)
            z = loc + scale * noise
            target = part.expand(particles, *part.shape)
            log_p = -F.binary_cross_entropy_with_logits(decoder(z), target, reduction="none")
            log_w = log_p.sum(-1) - 0.5 * z.square().sum(-1)
            log_w += (0.5 * noise.square() + scale.log()).sum(-1)
            found.append(log_w.logsumexp(0))
        return torch.cat(found).mean().item()

    return bound


def pyrovae_bound(particles: int, rows: int, *, compiled: bool):
    import torch

    import pyrovae as pv

    x, *_ = data_and_networks(rows)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, HIDDEN, PIXELS)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(PIXELS, HIDDEN, 2 * LATENTS)),
    )
    runner = pv.CompiledRun() if compiled else pv.weights.run.run

    @torch.no_grad()
    def bound() -> float:
        given = {"particles": particles, "chunk": CHUNK, "runner": runner}
        return pv.bounds.iwae(pv.log_weights(vae, x, **given)).mean().item()

    return bound


def pythaes(particles: int, rows: int):
    from step_time import pythae_vae

    x, encoder, decoder = data_and_networks(rows)
    vae = pythae_vae(encoder, decoder).eval()
    return lambda: vae.get_nll(x, n_samples=particles, batch_size=min(particles, CHUNK))


CONTESTANTS = {
    "raw torch, eager": raw_torch,
    "pythae": pythaes,
    "pyrovae, eager": lambda k, n: pyrovae_bound(k, n, compiled=False),
    "pyrovae, compiled": lambda k, n: pyrovae_bound(k, n, compiled=True),
}


def products() -> dict[str, Callable[[], None]]:
    """Return the machine's own products, on matrices as tall as a chunk."""
    import torch

    from pyrovae.graphs import onednn

    x, weight = torch.randn(CHUNK, HIDDEN), torch.randn(PIXELS, HIDDEN)
    kinds = {
        "torch": lambda: torch.mm(x, weight.t()),
        "oneDNN": lambda: onednn._linear(x, weight, None),
    }

    def often(product: Callable[[], object]) -> None:
        for _ in range(PRODUCTS):
            product()

    return {name: functools.partial(often, product) for name, product in kinds.items()}


def compete(particles: int, rows: int, rounds: int) -> None:
    import torch

    runs = products()
    for name, make in CONTESTANTS.items():
        try:
            runs[name] = make(particles, rows)
        except ImportError as error:
            print(f"| {name} | missing ({error}) | | |")
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    taken = {name: statistics.median(seconds) for name, seconds in times.items()}
    work = PRODUCTS * 2 * CHUNK * HIDDEN * PIXELS
    rates = {name: work / taken.pop(name) for name in ("torch", "oneDNN")}
    said = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    print(f"{torch.get_num_threads()} threads, K = {particles}, {rows} data; product: {said}\n")
    print("| | passes per second | share of torch's product | share of oneDNN's |")
    print("|---|---:|---:|---:|")
    for name, seconds in taken.items():
        rate = particles * rows / seconds
        shares = [rate * OPERATIONS / product for product in rates.values()]
        print(f"| {name} | {rate:,.0f} | {shares[0]:.2f} | {shares[1]:.2f} |")


def peak_mebibytes(particles: int) -> float:
    """Return what IWAE-K on 20 data adds to this process's peak."""
    bound = pyrovae_bound(particles, 20, compiled=True)
    pyrovae_bound(50, 100, compiled=True)()  # the compiler's own memory, met before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bound()
    bound()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, before / 1024


def elsewhere(threads: int, *arguments: str) -> str:
    """Run this script in a process of its own, pinned to as many cores as it has threads."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=["race", "memory"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "race":
        compete(args.particles, args.rows, args.rounds)
        return
    if args.serve == "memory":
        added, before = peak_mebibytes(args.particles)
        print(
            f"K = {args.particles}: {before + added:.0f} MiB at the peak, {added:.0f} above before"
        )
        return
    packages = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "pyro-ppl"))
    print(f"{platform.machine()}, {os.cpu_count()} cores; {packages}\n")
    shared = ["--particles", str(args.particles), "--rows", str(args.rows)]
    for threads in args.threads:
        race = ["--serve", "race", "--rounds", str(args.rounds), *shared]
        print(elsewhere(threads, *race), flush=True)
    for particles in (50, 5000):
        memory = ["--serve", "memory", "--particles", str(particles)]
        print(elsewhere(max(args.threads), *memory), end="", flush=True)


if __name__ == "__main__":
    main()
