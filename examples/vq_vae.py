"""A VQ-VAE on MNIST: codes, then a prior over them, and the bound that both give.

The encoder returns ten vectors of width 5, each replaced by the nearest of 256 codes. The codes
are trained under a uniform prior. Then they are frozen, and an autoregressive prior is fitted to
them, which lowers the rate -log p(k) and can be sampled. Either way

    log p(x) >= log p(x | k) + log p(k)

is the ELBO: the guide is certain of its codes, so the bound has no error over particles.

    python examples/vq_vae.py --root data --out runs/vq

prints two tables, before and after the prior is fitted, each with the usage of the codes;
benchmarks/README.md has their numbers. `--quantizer residual` takes two levels of 64 codes each,
`--quantizer fsq` rounds to a lattice. With `--smoke` it takes a few steps on the 8 x 8 digits of
scikit-learn.

References:
    van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.
    Mentzer, Minnen, Agustsson, Tschannen, 2024. Finite Scalar Quantization: VQ-VAE Made Simple.
"""

import argparse
import math

import torch

import pyrovae as pv

POSITIONS, WIDTH, HIDDEN = 10, 5, (200, 200)
QUANTIZERS = {
    "vq": lambda: pv.nets.Codebook(256, WIDTH),
    "residual": lambda: pv.nets.Codebook(64, WIDTH, depth=2),
    "fsq": lambda: pv.nets.Lattice([4, 4, 4, 2, 2]),
}


def make_vae(data: pv.data.DataSet, quantizer: pv.nets.Quantizer) -> pv.VAE:
    width, tanh = math.prod(data.shape), torch.nn.Tanh
    encoder = pv.nets.MLP(width, *HIDDEN, POSITIONS * WIDTH, activation=tanh)
    decoder = pv.nets.MLP(POSITIONS * WIDTH, *HIDDEN, width, activation=tanh)
    return pv.VAE(
        prior=pv.priors.Codes(quantizer, POSITIONS),
        likelihood=pv.likelihoods.Bernoulli(decoder).start_at_mean(data.train.x),
        guide=pv.guides.VectorQuantized(encoder, quantizer),
    )


def with_learned_prior(vae: pv.VAE) -> pv.VAE:
    """Return the VAE with its codes and decoder frozen, and a prior that is yet to be fitted."""
    quantizer = vae.posterior.quantizer
    net = pv.nets.CausalTransformer(POSITIONS * quantizer.depth, quantizer.codes)
    for part in (vae.posterior, vae.likelihood):
        part.requires_grad_(requires_grad=False)
    prior = pv.priors.AutoregressiveCodes(quantizer, net)
    return pv.VAE(prior, vae.likelihood, vae.posterior)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--out", help="a folder for the run and for a figure of samples")
    parser.add_argument("--quantizer", choices=QUANTIZERS, default="vq")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--prior-epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps on the digits")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.prior_epochs = 1, 1

    data = pv.data.load("digits" if args.smoke else "mnist", args.root)
    torch.manual_seed(args.seed)  # the networks' first weights
    vae = make_vae(data, QUANTIZERS[args.quantizer]())
    # The smoke test takes fewer steps than compiling would pay for.
    step = pv.Step(compile=not args.smoke)
    pv.fit(vae, data.train, epochs=args.epochs, batch_size=100, seed=args.seed, step=step)
    print(pv.evaluate(vae, data.test, particles=1, diagnostics=[pv.Codes()]))

    learned = with_learned_prior(vae)
    pv.fit(learned, data.train, epochs=args.prior_epochs, batch_size=100, step=step)
    report = pv.evaluate(learned, data.test, particles=1, diagnostics=[pv.Codes()])
    print(report)
    if args.out:
        pv.save(learned, args.out)
        report.save(f"{args.out}/evaluation.json")
        samples = pv.plots.samples(learned, 64, shape=data.shape)
        pv.plots.save(samples, f"{args.out}/samples.png")


if __name__ == "__main__":
    main()
