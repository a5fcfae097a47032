"""Two custom priors as Pyro programs, compared with the standard normal on the digits.

- Student's t: one site with heavy tails, and a guide with the same tails, so that the weights
  p / q stay bounded in the tails.
- A hierarchy of two sites, p(top) p(z | top): a two-dimensional "top" determines the mean of "z"
  through a network, so the marginal prior of z is a continuous mixture of normals. The guide is
  bottom-up, q(z | x) q(top | z).

Nothing else changes: `fit` and `evaluate` find the sites by running the programs. It prints the
report of each prior, then a summary. After 40 epochs, on the 297 test digits,

    standard normal      ELBO  -23.48   IWAE-1000  -22.97
    Student's t          ELBO  -23.89   IWAE-1000  -23.27
    two-site hierarchy   ELBO  -23.60   IWAE-1000  -23.07

References:
    Ranganath, Tran, Blei, 2016. Hierarchical Variational Models.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch

import pyrovae as pv
from pyrovae.nets import MLP, positive

LATENTS = 8
FREEDOM = 5.0


def student_prior() -> torch.Tensor:
    return pyro.sample("z", dist.StudentT(FREEDOM, torch.zeros(LATENTS), 1.0).to_event(1))


class StudentGuide(torch.nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(width, hidden, 2 * LATENTS)

    def forward(self, x: torch.Tensor) -> None:
        loc, raw = self.net(x).chunk(2, dim=-1)
        pyro.sample("z", dist.StudentT(FREEDOM, loc, positive(raw)).to_event(1))


class HierarchicalPrior(torch.nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.net = MLP(2, hidden, 2 * LATENTS)

    def forward(self) -> torch.Tensor:
        top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc, raw = self.net(top).chunk(2, dim=-1)
        return pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))


class UpwardGuide(torch.nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.to_z = MLP(width, hidden, 2 * LATENTS)
        self.to_top = MLP(LATENTS, hidden, 2 * 2)

    def forward(self, x: torch.Tensor) -> None:
        loc, raw = self.to_z(x).chunk(2, dim=-1)
        z = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        loc, raw = self.to_top(z).chunk(2, dim=-1)
        pyro.sample("top", dist.Normal(loc, positive(raw)).to_event(1))


def make_vaes(width: int, hidden: int) -> dict[str, pv.VAE]:
    def likelihood() -> pv.likelihoods.Bernoulli:
        return pv.likelihoods.Bernoulli(MLP(LATENTS, hidden, width))

    normal_guide = pv.guides.MeanFieldNormal(MLP(width, hidden, 2 * LATENTS))
    return {
        "standard normal": pv.VAE(pv.priors.StandardNormal(LATENTS), likelihood(), normal_guide),
        "Student's t": pv.VAE(student_prior, likelihood(), StudentGuide(width, hidden)),
        "two-site hierarchy": pv.VAE(
            HierarchicalPrior(hidden), likelihood(), UpwardGuide(width, hidden)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="one epoch, few particles")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.particles = 1, 50

    data = pv.data.load("digits")
    torch.manual_seed(0)  # the networks' first weights
    step = pv.Step(optim=pyro.optim.Adam({"lr": 4e-3}))
    lines = []
    for name, vae in make_vaes(width=64, hidden=200).items():
        pv.fit(vae, data.train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        report = pv.evaluate(vae, data.test, particles=args.particles)
        print(f"\n{name}\n{report}")
        bound = report.iwae[args.particles]
        lines.append(
            f"{name:20s} ELBO {report.elbo.mean:8.3f}   IWAE-{args.particles} "
            f"{bound.mean:8.3f} +- {bound.error_over_particles:.3f} over particles"
        )
    print("\ntest digits, nats per datum:", *lines, sep="\n  ")


if __name__ == "__main__":
    main()
