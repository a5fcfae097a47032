"""The deep variational information bottleneck, with a likelihood of labels instead of images.

The image is the context, and its label is the data. The objective

    E log p(y | z) - beta KL(q(z | image) || p(z))

is, up to a constant, a lower bound on I(z; y) - beta I(z; image): the latent keeps the information
about the label and discards the rest. beta is the KL weight of a training step. A label is
predicted by p(y | z), averaged over draws of q(z | image). The script prints the rate and the
accuracy for several beta.

References:
    Alemi, Fischer, Dillon, Murphy, 2017. Deep Variational Information Bottleneck.
"""

import argparse

import pyro
import torch

import pyrovae as pv
from pyrovae.nets import MLP

LATENTS, HIDDEN, WIDTH, CLASSES = 6, 100, 64, 10


def bottleneck() -> pv.VAE:
    encoder = pv.guides.MeanFieldNormal(MLP(WIDTH, HIDDEN, 2 * LATENTS))
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Label(MLP(LATENTS, CLASSES), classes=CLASSES),
        guide=pv.guides.OfContext(encoder),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 0.01, 0.1, 0.5])
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    train, test = ((split.labels, split.x) for split in (data.train, data.test))
    for beta in args.betas:
        torch.manual_seed(0)  # the networks' first weights
        vib = bottleneck()
        step = pv.Step(pyro.optim.Adam({"lr": 3e-3}), kl_weight=beta)
        pv.fit(vib, train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        report = pv.evaluate(vib, test, particles=100, diagnostics=[pv.Accuracy()])
        accuracy = report.findings["accuracy"].accuracy
        print(
            f"beta {beta:5.2f}   rate {report.monte_carlo_kl.mean:6.2f} nats   "
            f"E log p(y | z) {report.reconstruction.mean:7.3f}   test accuracy "
            f"{100 * accuracy.mean:5.1f}% ± {100 * accuracy.error_over_data:.1f}"
        )


if __name__ == "__main__":
    main()
