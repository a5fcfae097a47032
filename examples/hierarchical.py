"""Two levels of latents with a bottom-up guide and with a top-down ladder guide.

The model is p(z_2) p(z_1 | z_2) p(x | z_1). With the bottom-up guide q(z_1 | x) q(z_2 | z_1), the
top level may stay unused. The ladder multiplies an estimate from x by the prior's conditional, and
shares the prior's networks. The script prints each report, and the mean of log q - log p of each
level. For the ladder, and for the top level of the bottom-up guide, it is a KL divergence.

References:
    Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
    Sonderby, Raiko, Maaloe, Sonderby, Winther, 2016. Ladder Variational Autoencoders.
"""

import argparse

import pyro
import torch

import pyrovae as pv
from pyrovae.nets import MLP

LOW, TOP, HIDDEN, WIDTH = 8, 4, 200, 64


def make_prior() -> pv.priors.Hierarchical:
    return pv.priors.Hierarchical(
        pv.priors.StandardNormal(TOP), pv.priors.ConditionalNormal(MLP(TOP, HIDDEN, 2 * LOW))
    )


def bottom_up() -> tuple[pv.priors.Hierarchical, torch.nn.Module]:
    normal = pv.guides.MeanFieldNormal
    guide = pv.guides.Hierarchical(
        normal(MLP(WIDTH, HIDDEN, 2 * LOW)), normal(MLP(LOW, HIDDEN, 2 * TOP))
    )
    return make_prior(), guide


def ladder() -> tuple[pv.priors.Hierarchical, torch.nn.Module]:
    prior = make_prior()
    guide = pv.guides.Ladder(
        prior,
        upward=[MLP(WIDTH, HIDDEN, 64), MLP(64, HIDDEN, 32)],
        estimates=[MLP(64, 2 * LOW), MLP(32, 2 * TOP)],
    )
    return prior, guide


def rates(vae: pv.VAE, x: torch.Tensor) -> dict[str, float]:
    """Return the mean of log q - log p of each level."""
    with torch.no_grad():
        terms = pv.log_weight_terms(vae, x, particles=50)
    return {name: (terms.guide[name] - terms.prior[name]).mean().item() for name in terms.prior}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    torch.manual_seed(0)  # the networks' first weights
    for name, make in (("bottom-up", bottom_up), ("ladder", ladder)):
        prior, guide = make()
        likelihood = pv.likelihoods.Bernoulli(MLP(LOW, HIDDEN, WIDTH))
        vae = pv.VAE(prior, likelihood.start_at_mean(data.train.x), guide)
        step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), kl_weight=pv.schedules.linear(0, 1, 10))
        pv.fit(vae, data.train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        print(f"\n{name}\n{pv.evaluate(vae, data.test, particles=50 if args.smoke else 1000)}")
        print({site: round(rate, 2) for site, rate in rates(vae, data.test.draw()).items()})


if __name__ == "__main__":
    main()
