"""A linear VAE recovers probabilistic PCA: the same evidence, noise and principal subspace.

With x ~ N(W z + m, s^2 I) and a linear full-rank guide, the ELBO can reach log p(x), and the
optimum has a closed form. The VAE is trained by SVI on data with a low-rank covariance, and
compared with the closed form: likelihood, noise, and the angle between the subspaces.

References:
    Tipping, Bishop, 1999. Probabilistic Principal Component Analysis.
    Lucas, Tucker, Grosse, Norouzi, 2019. Don't Blame the ELBO! A Linear VAE Perspective.
"""

import argparse
import math

import pyro
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, positive

WIDTH, LATENTS, NOISE = 10, 3, 0.5


def simulate(n: int) -> Tensor:
    torch.manual_seed(0)
    weight = torch.randn(WIDTH, LATENTS) * torch.tensor([2.0, 1.5, 1.0])
    return torch.randn(n, LATENTS) @ weight.T + NOISE * torch.randn(n, WIDTH) + torch.randn(WIDTH)


def make_vae(x: Tensor) -> pv.VAE:
    width = pv.guides.FullRankNormal.width(LATENTS)
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Normal(MLP(LATENTS, WIDTH)).start_at_mean(x),
        guide=pv.guides.FullRankNormal(MLP(WIDTH, width)),
    )


def closed_form(x: Tensor) -> tuple[Tensor, float, float]:
    """Return the principal subspace, the noise and the mean log-likelihood of the optimum."""
    centered = (x - x.mean(0)).double()
    covariance = centered.T @ centered / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[:-LATENTS].mean()
    log_det = values[-LATENTS:].log().sum() + (WIDTH - LATENTS) * noise.log()
    log_p = -0.5 * (WIDTH * math.log(2 * math.pi) + log_det + WIDTH)
    return vectors[:, -LATENTS:], noise.sqrt().item(), log_p.item()


def largest_angle(first: Tensor, second: Tensor) -> float:
    """Return the largest principal angle between two subspaces, in degrees."""
    bases = [torch.linalg.qr(matrix.double())[0] for matrix in (first, second)]
    cosine = torch.linalg.svdvals(bases[0].T @ bases[1]).min().clamp(max=1.0)
    return math.degrees(math.acos(cosine.item()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--smoke", action="store_true", help="two epochs")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 2

    x = simulate(1000)
    vae = make_vae(x)
    optim = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 2e-2}, "gamma": 0.97}
    )
    pv.fit(vae, x, epochs=args.epochs, batch_size=100, step=pv.Step(optim), callbacks=[])
    print(pv.evaluate(vae, x, particles=100))

    subspace, noise, log_p = closed_form(x)
    learned = vae.likelihood.net.layers[0].weight.detach()
    print(f"log p(x), closed form    {log_p:8.4f} nats per datum")
    print(f"noise      learned {positive(vae.likelihood.raw_scale).item():.4f}   PCA {noise:.4f}")
    print(f"largest angle between the subspaces {largest_angle(learned, subspace):.2f} degrees")


if __name__ == "__main__":
    main()
