"""The beta-VAE on sprites: which unit holds which factor, and what that costs.

    python examples/beta_vae.py --figure walk.png

A beta-VAE minimizes distortion + beta * rate. The latents are measured against the factors that
the images were rendered from: the mutual information gap (MIG; Chen et al., 2018), and the units
that hold the sprite's place. beta multiplies the KL per image in nats; Higgins et al. compare data
of other sizes by beta times the number of latents over that of pixels.

References:
    Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner, 2017. beta-VAE.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch

import pyrovae as pv

MIG = pv.measure.disentanglement.MIG(resamples=2)


def make_vae(data: pv.data.DataSet, latents: int) -> pv.VAE:
    """Return a VAE of perceptrons, as the paper has for sprites."""
    width = math.prod(data.shape)
    decoder = pv.nets.MLP(latents, 256, 256, width)
    return pv.VAE(
        prior=pv.priors.StandardNormal(latents),
        likelihood=pv.likelihoods.Bernoulli(decoder).start_at_mean(data.train.x),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(width, 256, 256, 2 * latents)),
    )


def place(found: pv.Assignment) -> str:
    """Return the units that hold x and y, and their share of the factors' entropy."""
    holders = {name: "+".join(found.holders[name]) or "none" for name in ("x", "y")}
    best = found.share.max(0).values
    shares = {name: best[found.factors.index(name)] for name in holders}
    return "  ".join(f"{name} in {holders[name]} ({shares[name]:.0%})" for name in holders)


def train(data: pv.data.DataSet, beta: float, seed: int, args: argparse.Namespace) -> float:
    """Train and measure one beta-VAE, and return its MIG."""
    torch.manual_seed(seed)
    vae = make_vae(data, args.latents)
    step = pv.Step(pv.Optim(torch.optim.Adam, lr=1e-3), kl_weight=beta)
    began = time.process_time()
    pv.fit(vae, data.train, epochs=args.epochs, step=step, seed=seed, callbacks=[])
    seconds = time.process_time() - began
    report = pv.evaluate(vae, data.test, particles=2)
    z, factors = vae.embed(data.test.x), data.test.factors
    mig = MIG(z, factors).mean
    rate, elbo = report.closed_form_kl.mean, report.elbo.mean
    held = place(pv.assign(z, factors, names=data.factors))
    numbers = f"{beta:4g} {seed:4}  {elbo:7.2f}  {rate:5.2f}  {mig:.3f}  {seconds:5.0f}"
    print(f"{numbers}  {held}", flush=True)
    if args.out:
        pv.save(vae, args.out / f"beta-{beta:g}-seed-{seed}")
    if args.figure and seed == 0:
        path = args.figure.with_stem(f"{args.figure.stem}-{beta:g}")
        pv.plots.save(pv.plots.traversals(pv.traverse(vae, data.test.x), data.shape), path)
    return mig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--betas", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument(
        "--figure", type=Path, help="draw walks of the first seed, one file a beta"
    )
    parser.add_argument("--out", type=Path, help="save the runs in this folder")
    parser.add_argument("--smoke", action="store_true", help="one epoch on few sprites")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.seeds = 1, 2
    data = pv.data.load("sprites", limit=1000 if args.smoke else None)
    print("beta seed     ELBO   rate  MIG    CPU s  units of the place (share of its entropy)")
    found: dict[float, list[float]] = {}
    for seed in range(args.seeds):
        for beta in args.betas:
            found.setdefault(beta, []).append(train(data, beta, seed, args))
    for beta, migs in found.items():
        error = statistics.stdev(migs) / math.sqrt(len(migs)) if len(migs) > 1 else math.nan
        print(f"beta {beta:g}: MIG {statistics.mean(migs):.3f} ± {error:.3f} over seeds")


if __name__ == "__main__":
    main()
