"""A denoising VAE: noisy images in, clean images out.

The noisy image is the context, and the only input of the guide: p(z) p(x | z) and q(z | noisy).
The likelihood scores the clean image. It is compared with a VAE whose guide was trained on clean
images and is evaluated on noisy ones, which has a lower bound on the clean image.

References:
    Im, Ahn, Memisevic, Bengio, 2017. Denoising Criterion for Variational Auto-Encoding Framework.
"""

import argparse

import pyro
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP
from pyrovae.parts import Part

LATENTS, HIDDEN, WIDTH = 8, 200, 64


class FromContext(Part):
    """Apply a network to the context instead of x."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, noisy: Tensor) -> Tensor:
        return self.net(noisy)


class WithoutContext(Part):
    """Apply a network to its first input only."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, noisy: Tensor) -> Tensor:
        return self.net(z)


def make_vae() -> pv.VAE:
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(WithoutContext(MLP(LATENTS, HIDDEN, WIDTH))),
        guide=pv.guides.MeanFieldNormal(FromContext(MLP(WIDTH, HIDDEN, 2 * LATENTS))),
    )


def flipped(x: Tensor, share: float, seed: int) -> Tensor:
    """Flip a fraction of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(x.shape, generator=generator) < share, 1 - x, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.15, help="share of flipped pixels")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    x, clean = data.train.draw(), data.test.draw()
    noisy = flipped(clean, args.noise, seed=2)
    torch.manual_seed(0)  # the networks' first weights
    for name, shown in (("trained on clean images", x), ("denoising", None)):
        vae = make_vae()
        shown = flipped(x, args.noise, seed=1) if shown is None else shown
        step = pv.Step(pyro.optim.Adam({"lr": 2e-3}))
        pv.fit(vae, (x, shown), epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        report = pv.evaluate(vae, (clean, noisy), particles=50 if args.smoke else 1000)
        print(f"\n{name}: the clean image, its guide shown the noisy one\n{report}")


if __name__ == "__main__":
    main()
