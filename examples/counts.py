"""Counts with a library size: Poisson and negative binomial likelihoods on simulated genes.

Each cell has a type, which determines the proportions of its genes, and a library size, which
determines how many molecules were counted. The library size is context: it scales the mean and is
not modeled. The counts are overdispersed; the negative binomial learns a dispersion per gene.

References:
    Lopez, Regier, Cole, Jordan, Yosef, 2018. Deep generative modeling for single-cell
    transcriptomics.
"""

import argparse

import pyro
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, LogCounts

GENES, TYPES, LATENTS, HIDDEN, DISPERSION = 50, 4, 2, 64, 2.0


def simulate(cells: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return counts [N, GENES] and library sizes [N, 1]."""
    world = torch.Generator().manual_seed(0)
    proportions = (1.5 * torch.randn(TYPES, GENES, generator=world)).softmax(-1)
    torch.manual_seed(seed)
    kind = torch.randint(TYPES, (cells,))
    size = torch.distributions.LogNormal(6.0, 0.5).sample((cells, 1))
    rate = torch.distributions.Gamma(DISPERSION, DISPERSION).sample((cells, GENES))
    x = torch.poisson(size * proportions[kind] * rate)
    return x, x.sum(-1, keepdim=True)


def make_vaes() -> dict[str, pv.VAE]:
    def decoder() -> MLP:
        return MLP(LATENTS, HIDDEN, GENES)

    def guide() -> pv.guides.MeanFieldNormal:
        net = LogCounts(MLP(GENES + 1, HIDDEN, 2 * LATENTS), library=True)
        return pv.guides.MeanFieldNormal(net)

    likelihoods = {
        "Poisson": pv.likelihoods.Poisson(decoder(), library=True),
        "negative binomial": pv.likelihoods.NegativeBinomial(decoder(), GENES, library=True),
    }
    return {
        name: pv.VAE(pv.priors.StandardNormal(LATENTS), likelihood, guide())
        for name, likelihood in likelihoods.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.cells = 1, 200

    train, test = simulate(args.cells, seed=1), simulate(500, seed=2)
    torch.manual_seed(0)  # the networks' first weights
    for name, vae in make_vaes().items():
        step = pv.Step(pyro.optim.ClippedAdam({"lr": 5e-3}))
        pv.fit(vae, train, epochs=args.epochs, batch_size=100, step=step, callbacks=[])
        print(f"\n{name}\n{pv.evaluate(vae, test, particles=50 if args.smoke else 1000)}")


if __name__ == "__main__":
    main()
