"""What bfloat16 layers cost in nats and gain in seconds, against float32.

    python benchmarks/precision.py --root data

The VAE is 784-200-200-2x50 and back with tanh, on dynamically binarized MNIST, batch 100, Adam
1e-3. Both trainings start from one initialization and draw the same noise. The bounds are measured
with float32 networks, and their difference is paired over the test images. Steps are compiled; the
seconds per step are without compiling.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

import pyrovae as pv


def vae_of(data: pv.data.DataSet, seed: int) -> pv.VAE:
    torch.manual_seed(seed)
    width, tanh = math.prod(data.shape), torch.nn.Tanh
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(50, 200, 200, width, activation=tanh))
    return pv.VAE(
        prior=pv.priors.StandardNormal(50),
        likelihood=likelihood.start_at_mean(data.train.x),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(width, 200, 200, 100, activation=tanh)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = pv.data.load(args.data, args.root)
    steps = math.ceil(len(data.train.x) / 100)
    reports = []
    print("| layers | test ELBO | IWAE-K | ms per step |\n|---|---:|---:|---:|", flush=True)
    for precision in (None, "bf16"):
        vae = vae_of(data, args.seed)
        step = pv.Step(precision=precision, compile=True)
        history = pv.fit(
            vae, data.train, epochs=args.epochs, step=step, seed=args.seed, callbacks=[]
        )
        report = pv.evaluate(vae, data.test, particles=args.particles, seed=args.seed)
        bound = report.iwae[args.particles]
        seconds = statistics.median(history.column("seconds")) / steps
        print(
            f"| {precision or 'float32'} | {report.elbo.mean:.2f} ± "
            f"{report.elbo.error_over_data:.2f} | {bound.mean:.2f} ± "
            f"{bound.error_over_data:.2f} | {1000 * seconds:.2f} |",
            flush=True,
        )
        reports.append(report)
    print(pv.compare(*reversed(reports), names=("bf16", "float32")))


if __name__ == "__main__":
    main()
