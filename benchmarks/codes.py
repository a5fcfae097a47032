"""Codes on MNIST: the bound, usage and bits of quantized latents beside a VAE of normals.

    OMP_NUM_THREADS=1 python benchmarks/codes.py --root data --out figures

Dynamically binarized MNIST; encoder 784-200-200-50 and decoder 50-200-200-784 with tanh, as of
examples/vae_mnist.py, batches of 100, Adam 1e-3. The 50 outputs of the encoder are ten vectors of
width 5, each replaced by one of 256 codes. The first VAE has 50 normal latents instead. Codes are
trained under a uniform prior; then the guide is frozen, and a categorical and an autoregressive
prior are fitted to the codes.
"""

import argparse
import json
from pathlib import Path

import pyro
import torch

import pyrovae as pv

POSITIONS, WIDTH, CODES, HIDDEN = 10, 5, 256, (200, 200)
LEVELS = [4, 4, 4, 2, 2]  # 256 codes of the same width
tanh = torch.nn.Tanh


def encoder(outputs):
    return pv.nets.MLP(784, *HIDDEN, outputs, activation=tanh)


def likelihood(x):
    net = pv.nets.MLP(POSITIONS * WIDTH, *HIDDEN, 784, activation=tanh)
    return pv.likelihoods.Bernoulli(net).start_at_mean(x)


def normals(x):
    latents = POSITIONS * WIDTH
    guide = pv.guides.MeanFieldNormal(encoder(2 * latents))
    return pv.VAE(pv.priors.StandardNormal(latents), likelihood(x), guide)


def coded(x, **options):
    book = pv.nets.Codebook(CODES, WIDTH, **options)
    guide = pv.guides.VectorQuantized(encoder(POSITIONS * WIDTH), book)
    return pv.VAE(pv.priors.Codes(book, POSITIONS), likelihood(x), guide)


def on_lattice(x):
    guide = pv.guides.FSQ(encoder(POSITIONS * WIDTH), LEVELS)
    return pv.VAE(pv.priors.Codes(guide.quantizer, POSITIONS), likelihood(x), guide)


VAES = {
    "normals": normals,
    "moving averages": coded,
    "codebook loss": lambda x: coded(x, update="loss"),
    "two residual levels": lambda x: coded(x, depth=2),
    "FSQ": on_lattice,
}


def fitted(vae, data, epochs, *, compile=True):
    step = pv.Step(optim=pyro.optim.Adam({"lr": 1e-3}), compile=compile)
    pv.fit(vae, data.train, epochs=epochs, batch_size=100, step=step, seed=0, callbacks=[])
    return vae


def with_prior(vae, prior, data, epochs):
    """Fit a prior to the codes of a trained VAE, whose other parameters stay as they are."""
    for part in (vae.posterior, vae.likelihood):
        part.requires_grad_(requires_grad=False)
    return fitted(pv.VAE(prior, vae.likelihood, vae.posterior), data, epochs, compile=False)


def line(name, report):
    """Print and return the numbers of a report."""
    found = {"name": name, "ELBO": (report.elbo.mean, report.elbo.error_over_data)}
    found["distortion"] = -report.reconstruction.mean
    found["rate"] = report.monte_carlo_kl.mean
    found["bits per dimension"] = report.bits_per_dimension().mean
    if "codes" in report.findings:
        codes = report.findings["codes"]
        table = codes.quantities
        found |= {name: q.mean for name, q in table.items() if "usage" in name or "perp" in name}
        found["bits per code"] = table["bits per code"].mean
        found["dead"] = codes.dead
    else:
        k = max(report.iwae)
        found[f"IWAE-{k}"] = (report.iwae[k].mean, report.iwae[k].error_over_data)
    print(json.dumps(found), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data")
    parser.add_argument("--only", nargs="*", default=list(VAES), choices=list(VAES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--prior-epochs", type=int, default=5)
    parser.add_argument("--particles", type=int, default=1000, help="of the normals")
    parser.add_argument("--out", help="a folder for samples from the learned priors")
    args = parser.parse_args()
    data = pv.data.load("mnist", args.root)
    for name in args.only:
        torch.manual_seed(0)
        vae = fitted(VAES[name](data.train.x), data, args.epochs)
        if name == "normals":
            line(name, pv.evaluate(vae, data.test, particles=args.particles))
            continue
        report = pv.evaluate(vae, data.test, particles=1, diagnostics=[pv.Codes()])
        line(f"{name}, uniform", report)
        book = vae.posterior.quantizer
        tokens = POSITIONS * book.depth
        for kind, prior in (
            ("categorical", pv.priors.Codes(book, POSITIONS, learned=True)),
            (
                "autoregressive",
                pv.priors.AutoregressiveCodes(book, pv.nets.CausalTransformer(tokens, book.codes)),
            ),
        ):
            learned = with_prior(vae, prior, data, args.prior_epochs)
            report = pv.evaluate(learned, data.test, particles=1, diagnostics=[pv.Codes()])
            line(f"{name}, {kind}", report)
            if args.out:
                path = Path(args.out) / f"codes_{name}_{kind}.png".replace(" ", "_")
                pv.save(learned, path.with_suffix(""))
                pv.plots.save(pv.plots.samples(learned, 64, shape=data.shape), path)


if __name__ == "__main__":
    main()
