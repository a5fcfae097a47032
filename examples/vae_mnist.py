"""The VAE of Kingma and Welling on dynamically binarized MNIST, evaluated with IWAE-1000.

Networks 784-200-200-2x50 and 50-200-200-784 with tanh, batches of 500, Muon along a cosine, 20
epochs over 50,000 images: the recipe that is ahead in benchmarks/tables/recipes.md. The script
loads data, trains with `fit`, evaluates, and saves the run.

    python examples/vae_mnist.py --root data --out runs/mnist

prints a report with a test ELBO of about -96 nats and an IWAE-1000 of about -91, also over the
first 1,000 test images (`--limit 1000`). With `--smoke` it takes a few steps on the 8 x 8 digits
of scikit-learn, without MNIST.

References:
    Kingma, Welling, 2014. Auto-Encoding Variational Bayes.
    Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
"""

import argparse
import dataclasses
import math

import torch

import pyrovae as pv

LATENTS = 50
HIDDEN = (200, 200)
BATCH = 500


def make_vae(data: pv.data.DataSet) -> pv.VAE:
    width, tanh = math.prod(data.shape), torch.nn.Tanh
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, *HIDDEN, width, activation=tanh))
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=likelihood.start_at_mean(data.train.x),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(width, *HIDDEN, 2 * LATENTS, activation=tanh)),
    )


def first(split: pv.data.Split, count: int | None) -> pv.data.Split:
    return dataclasses.replace(split, x=split.x[:count], labels=split.labels[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--out", help="a folder for the run: checkpoints, history, report")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--limit", type=int, help="the first so many test images only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps on the digits")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.particles, args.limit = 2, 100, 50

    data = pv.data.load("digits" if args.smoke else "mnist", args.root)
    torch.manual_seed(args.seed)  # the networks' first weights
    vae = make_vae(data)
    callbacks = [pv.ProgressBar()]
    if args.out:
        callbacks.append(pv.Checkpoint(args.out, seed=args.seed))
    history = pv.fit(
        vae,
        data.train,
        validation=data.validation,
        epochs=args.epochs,
        batch_size=BATCH,
        step=pv.Step(optim=pv.Optim.muon(steps=args.epochs * -(-len(data.train) // BATCH))),
        seed=args.seed,
        callbacks=callbacks,
    )
    last = history.epochs[-1]
    print(
        f"after {last.epoch} epochs: validation ELBO {last.validation_elbo:.2f} nats, "
        f"{sum(history.column('seconds')):.0f} s of steps"
    )
    report = pv.evaluate(vae, first(data.test, args.limit), particles=args.particles)
    print(report)
    if args.out:
        report.save(f"{args.out}/evaluation.json")


if __name__ == "__main__":
    main()
