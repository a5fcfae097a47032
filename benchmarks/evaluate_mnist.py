"""What IWAE-5000 over MNIST's test images costs: time, decoder passes a second, peak memory.

    python benchmarks/evaluate_mnist.py --root data --run FOLDER

The VAE is a run of the one-layer networks of `benchmarks/tables/iwae.py`, 784-200-200-50 and
back; without `--run`, the same networks untrained, which cost as much. Each number of particles
has a process of its own, whose peak memory is above what the process held with the data and the
VAE loaded (Linux). Compiling is in both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def memory(name: str) -> float:
    """Return what Linux says of the process's memory, in MiB: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measure(args: argparse.Namespace, particles: int) -> None:
    import torch
    from iwae import one_layer

    import pyrovae as pv

    torch.set_num_threads(args.threads)
    x = pv.data.load("mnist", args.root).test.draw()[: args.limit]
    vae = pv.load(args.run) if args.run else one_layer(x)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = memory("VmRSS"), time.perf_counter()
    report = pv.evaluate(vae, x, particles=particles, ks=[particles], compile=True)
    seconds = time.perf_counter() - started
    bound = report.iwae[particles]
    found = {
        "particles": particles,
        "data": len(x),
        "seconds": seconds,
        "passes": len(x) * particles / seconds,
        "memory": memory("VmHWM") - before,
        "bound": bound.mean,
        "error": bound.error_over_data,
        "over_particles": bound.error_over_particles,
        "untrusted": len(report.untrusted),
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--run", type=Path, help="the folder of a trained run")
    parser.add_argument("--limit", type=int, help="so many test images only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--particles", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--within", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.within:
        sys.path.append(str(Path(__file__).parent / "tables"))
        measure(args, args.within)
        return
    print("| K | IWAE-K, nats | k-hat too large | s | decoder passes a second | peak, MiB |")
    print("|---:|---:|---:|---:|---:|---:|")
    for particles in args.particles:
        command = [sys.executable, *sys.argv, "--within", str(particles)]
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {particles:,} | {found['bound']:.3f} ± {found['error']:.3f} over data, "
            f"{found['over_particles']:.3f} over particles | "
            f"{found['untrusted']:,} of {found['data']:,} | {found['seconds']:.0f} | "
            f"{found['passes']:,.0f} | {found['memory']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
