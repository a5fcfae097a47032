"""A deterministic auto-encoder is a VAE with a point guide and no KL term; and its holes.

    model  z ~ N(0, I),  x ~ N(g(z), s^2 I)          guide  z = f(x), a point mass

With the weight 0 on the KL term, the objective is -|x - g(f(x))|^2 / 2 s^2 and a constant. Nothing
tells the codes f(x) where to lie, so a normal with their mean and covariance, from which the
auto-encoder is sampled here, has mass where no codes are. The decoder was not trained in such a
hole. The VAE with the same networks is sampled from its prior. For both, the script prints

- distortion: |x - g(z)|^2 of the test images;
- in holes: the share of samples z further from all codes of training images than 99% of the codes
  of test images are. It is about 1% if samples and codes have the same distribution;
- from images: the mean squared distance of decoded samples from the nearest training image, beside
  that of decoded codes of test images.

    python examples/autoencoder.py --figure holes.png

OUTPUT

References:
    Hinton, Salakhutdinov, 2006. Reducing the Dimensionality of Data with Neural Networks.
    Ghosh, Sajjadi, Vergari, Black, Schoelkopf, 2020. From Variational to Deterministic
        Autoencoders.
"""

import argparse
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae.nets import MLP
from pyrovae.plots.style import CLASSES

HIDDEN, WIDTH, NOISE, SAMPLES = 200, 64, 0.3, 5000
GUIDES = {"auto-encoder": (pv.guides.Delta, 1, 0.0), "VAE": (pv.guides.MeanFieldNormal, 2, 1.0)}


def trained(name: str, x: Tensor, latents: int, epochs: int) -> pv.VAE:
    guide, outputs, kl_weight = GUIDES[name]
    torch.manual_seed(0)  # the networks' first weights
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(latents),
        likelihood=pv.likelihoods.Normal(MLP(latents, HIDDEN, WIDTH), scale=NOISE),
        guide=guide(MLP(WIDTH, HIDDEN, outputs * latents)),
    )
    step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), kl_weight=kl_weight)
    pv.fit(vae, x, epochs=epochs, batch_size=50, step=step, callbacks=[])
    return vae


def sampled_from(name: str, codes: Tensor) -> MultivariateNormal:
    """Return the prior of the VAE, or the normal with the moments of the codes."""
    if name == "VAE":
        return MultivariateNormal(torch.zeros(codes.shape[1]), torch.eye(codes.shape[1]))
    return MultivariateNormal(codes.mean(0), codes.T.cov())


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """Return the distance of each point from the nearest of the others."""
    return torch.cdist(points, others).min(1).values


@torch.no_grad()
def measure(name: str, vae: pv.VAE, x: Tensor, test: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Print a line; return the codes, the samples, and which of these are in holes."""
    codes, held_out = vae.guide(x), vae.guide(test)
    z = sampled_from(name, codes).sample((SAMPLES,))
    holes = nearest(z, codes) > nearest(held_out, codes).quantile(0.99)
    decoded, reconstructed = vae.decode(z).mean, vae.decode(held_out).mean
    print(
        f"{name:13s} latents {codes.shape[1]:2d}   "
        f"distortion {(test - reconstructed).square().sum(1).mean():5.2f}   "
        f"in holes {100 * holes.double().mean():5.1f}%   "
        f"from images: samples {nearest(decoded, x).square().mean():5.2f}, "
        f"reconstructions {nearest(reconstructed, x).square().mean():5.2f}"
    )
    return codes, z, holes


def draw(panels: list, name: str, vae: pv.VAE, labels: Tensor, found: tuple) -> None:
    """Draw the codes with the samples in holes, and the decoded quantiles of what is sampled."""
    codes, z, holes = found
    for digit, color in enumerate(CLASSES):
        panels[0].scatter(*codes[labels == digit].T, color=color, s=5, label=str(digit))
    panels[0].scatter(*z[holes].T, s=8, c="black", marker="x", lw=0.5, label="in a hole")
    panels[0].set(title=f"{name}: codes", xlabel="z[0]", ylabel="z[1]")
    normal = sampled_from(name, codes)
    at = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.01, 0.99, 15))
    grid = torch.cartesian_prod(at.flip(0), at).flip(1) @ normal.scale_tril.T + normal.mean
    images = vae.decode(grid).mean.detach().reshape(15, 15, 8, 8)
    panels[1].imshow(
        images.transpose(1, 2).reshape(120, 120).numpy(), cmap="gray_r", vmin=0, vmax=1
    )
    panels[1].set(title=f"{name}: decoded quantiles, 1% to 99%", xticks=[], yticks=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--figure", type=Path, help="draw both spaces of two latents")
    parser.add_argument("--smoke", action="store_true", help="one epoch, two latents")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.latents = 1, [2]

    data = pv.data.load("digits")
    x, test = data.train.x, data.test.x  # the intensities themselves
    figure = Figure(figsize=(9, 9), layout="constrained")
    panels = figure.subplots(2, 2)
    for latents in args.latents:
        for column, name in enumerate(GUIDES):
            vae = trained(name, x, latents, args.epochs)
            found = measure(name, vae, x, test)
            if latents == 2:
                draw(panels[:, column], name, vae, data.train.labels, found)
    if args.figure:
        panels[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        pv.plots.save(figure, args.figure)


if __name__ == "__main__":
    main()
