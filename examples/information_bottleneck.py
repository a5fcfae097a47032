"""The deep variational information bottleneck, with a likelihood of labels instead of images.

The image is the context, and its label is scored at the site "x". The objective
E log p(y | z) - beta KL(q(z | image) || p(z)) is, up to a constant, a lower bound on
I(z; y) - beta I(z; image): the latent keeps the information about the label and discards the rest.
The script prints the rate and the accuracy for several beta.

References:
    Alemi, Fischer, Dillon, Murphy, 2017. Deep Variational Information Bottleneck.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, positive

LATENTS, HIDDEN, WIDTH, CLASSES = 6, 100, 64, 10


class Label(torch.nn.Module):
    """Score the label [N] given z."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(LATENTS, CLASSES)

    def forward(self, z: Tensor, y: Tensor | None = None, *image: Tensor) -> Tensor:
        return pyro.sample("x", dist.Categorical(logits=self.net(z)), obs=y)


class FromImage(torch.nn.Module):
    """Sample z given the image only, not the label."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(WIDTH, HIDDEN, 2 * LATENTS)

    def forward(self, y: Tensor, image: Tensor) -> Tensor:
        loc, raw = self.net(image).chunk(2, -1)
        return pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))


@torch.no_grad()
def accuracy(vae: pv.VAE, y: Tensor, image: Tensor) -> float:
    """Return the accuracy of the labels predicted from the posterior mean of z."""
    logits = vae.likelihood.net(vae.encode(y, image).mean)
    return (logits.argmax(-1) == y).double().mean().item()


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
        vae = pv.VAE(pv.priors.StandardNormal(LATENTS), Label(), FromImage())
        step = pv.Step(pyro.optim.Adam({"lr": 3e-3}), kl_weight=beta)
        pv.fit(vae, train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        report = pv.evaluate(vae, test, particles=100)
        print(
            f"beta {beta:5.2f}   rate {report.monte_carlo_kl.mean:6.2f} nats   "
            f"E log p(y | z) {report.reconstruction.mean:7.3f}   "
            f"test accuracy {100 * accuracy(vae, *test):5.1f}%"
        )


if __name__ == "__main__":
    main()
