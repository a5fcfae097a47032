"""A sparse auto-encoder: sparse coding with a Laplace prior, and a point guide for the codes.

    model  z ~ prod_j Laplace(0, 1),  x ~ N(D z + m, s^2 I)      guide  z = max(0, W x + b), a point

    objective  log p(x, z) = -|x - D z - m|^2 / 2 s^2 - |z|_1 + constant

There are more codes than pixels (overcomplete). The prior's logarithm is the L1 penalty of sparse
coding, with the price s^2 of |z|_1 against half the squared error; the guide takes the place of
the search for each datum's best code. The columns of D have the length 1: otherwise z would shrink
and D grow. The rectifier makes zeros exact, which a prior alone would not.

The script trains with the penalty (KL weight 1) and without (0), and prints, for test images, the
codes that are not zero, the codes that are zero for all training images, the explained variance,
and the explained variance of principal components, as many as the codes that are not zero.

OUTPUT

References:
    Olshausen, Field, 1996. Emergence of Simple-Cell Receptive Field Properties by Learning a
        Sparse Code for Natural Images.
    Ng, 2011. Sparse Autoencoder. (The penalty there is on the mean activity of each code.)
    Bricken et al., 2023. Towards Monosemanticity. (This form: rectifier, L1, columns of length 1.)
"""

import argparse
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn

import pyrovae as pv

CODES, WIDTH = 128, 64


class Dictionary(nn.Module):
    """Map codes z to D z + m, with columns of D of length 1."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.randn(WIDTH, CODES))
        self.mean = nn.Parameter(mean.clone())

    def atoms(self) -> Tensor:
        return nn.functional.normalize(self.columns, dim=0)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.atoms().T + self.mean


def trained(x: Tensor, noise: float, kl_weight: float, epochs: int) -> pv.VAE:
    torch.manual_seed(0)  # the networks' first weights
    vae = pv.VAE(
        prior=pv.priors.Laplace(CODES),
        likelihood=pv.likelihoods.Normal(Dictionary(x.mean(0)), scale=noise),
        guide=pv.guides.Delta(nn.Sequential(nn.Linear(WIDTH, CODES), nn.ReLU())),
    )
    step = pv.Step(pyro.optim.Adam({"lr": 3e-3}), kl_weight=kl_weight)
    pv.fit(vae, x, epochs=epochs, batch_size=100, step=step, callbacks=[])
    return vae


def explained(x: Tensor, fitted: Tensor, mean: Tensor) -> float:
    """Return the share of the variance about a mean that is explained, in percent."""
    return 100 * (1 - (x - fitted).square().sum() / (x - mean).square().sum()).item()


def by_components(x: Tensor, test: Tensor, count: int) -> Tensor:
    """Return the projection of the test images on the principal components of x."""
    axes = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:count]
    return (test - x.mean(0)) @ axes.T @ axes + x.mean(0)


@torch.no_grad()
def measure(vae: pv.VAE, x: Tensor, test: Tensor) -> str:
    z = vae.guide(test)
    used = (z > 0).sum(1).double().mean().item()
    dead = (vae.guide(x) > 0).logical_not().all(0).sum().item()
    components = by_components(x, test, max(1, round(used)))
    return (
        f"not zero {used:5.1f} of {CODES}   never used {dead:3d}   "
        f"explained {explained(test, vae.decode(z).mean, x.mean(0)):5.1f}%   "
        f"by as many principal components {explained(test, components, x.mean(0)):5.1f}%"
    )


def draw(vae: pv.VAE, x: Tensor, path: Path) -> None:
    """Draw the columns of D, the most used first."""
    with torch.no_grad():
        order = (vae.guide(x) > 0).double().mean(0).argsort(descending=True)
        atoms = vae.likelihood.net.atoms().T[order].reshape(8, 16, 8, 8)
    pv.plots.save(pv.plots.image_grid.mosaic([*atoms.unsqueeze(-1)], names=[""] * 8), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.4, help="s, the square root of the price")
    parser.add_argument("--figure", type=Path, help="draw the columns of D")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    x, test = data.train.x, data.test.x  # the intensities themselves
    for kl_weight in (0.0, 1.0):
        vae = trained(x, args.noise, kl_weight, args.epochs)
        print(f"KL weight {kl_weight:.0f}   {measure(vae, x, test)}")
    if args.figure:
        draw(vae, x, args.figure)


if __name__ == "__main__":
    main()
