"""Train on images with half of the pixels missing, and impute the missing pixels.

The mask is the last context of the programs. `Masked` omits the terms of missing entries,
`HideMissing` replaces them by zeros for the guide, and `impute` averages the decoder over
particles weighted by p(x_obs, z) / q(z | x_obs). The script prints bounds on log p(x_obs), and the
cross-entropy of the missing pixels, compared with predicting each pixel's observed mean.

References:
    Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete Data.
"""

import argparse

import pyro
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

import pyrovae as pv
from pyrovae.nets import MLP, HideMissing

LATENTS, HIDDEN, WIDTH = 8, 200, 64


def make_vae() -> pv.VAE:
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Masked(pv.likelihoods.Bernoulli(MLP(LATENTS, HIDDEN, WIDTH))),
        guide=pv.guides.MeanFieldNormal(HideMissing(MLP(WIDTH, HIDDEN, 2 * LATENTS))),
    )


def with_gaps(x: Tensor, missing: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return x with zeros at missing entries, and the mask of observed entries."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(x.shape, generator=generator) >= missing
    return torch.where(mask, x, 0.0), mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--missing", type=float, default=0.5, help="share of the pixels")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1
    particles = 50 if args.smoke else 1000

    data = pv.data.load("digits")
    train = with_gaps(data.train.draw(), args.missing, seed=0)
    complete = data.test.draw()
    x, mask = with_gaps(complete, args.missing, seed=1)

    torch.manual_seed(0)  # the networks' first weights
    vae = make_vae()
    step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), loss=pv.objectives.IWAE(10, gradient="dreg"))
    pv.fit(vae, train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
    print(f"the observed half\n{pv.evaluate(vae, (x, mask), particles=particles)}")

    filled = pv.impute(vae, x, mask, particles=particles)
    mean = (train[0].sum(0) + 0.5) / (train[1].sum(0) + 1)
    for name, guess in (("imputed", filled.x), ("the pixel's mean", mean.expand_as(x))):
        error = binary_cross_entropy(guess[~mask].clamp(1e-4, 1 - 1e-4), complete[~mask])
        print(f"{name:18s} cross-entropy of hidden pixels {error:.3f} nats per pixel")
    sizes = filled.effective_sample_size
    print(f"effective sample size {sizes.mean():.0f} of {particles}, {sizes.min():.0f} at worst")


if __name__ == "__main__":
    main()
