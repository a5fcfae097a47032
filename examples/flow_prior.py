"""A normalizing flow as the prior (needs pyrovae[flows]).

    python -m pip install 'pyrovae[flows]'

With a standard normal prior, the aggregate posterior must become normal; a flow prior learns its
shape instead. It is compared with the standard normal on the digits.

References:
    Chen et al., 2017. Variational Lossy Autoencoder.
    Durkan, Bekasov, Murray, Papamakarios, 2019. Neural Spline Flows.
"""

import argparse

import pyro
import torch

import pyrovae as pv

LATENTS, HIDDEN = 4, 200


def make_vae(prior: torch.nn.Module, x: torch.Tensor) -> pv.VAE:
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, HIDDEN, x.shape[-1]))
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(x.shape[-1], HIDDEN, 2 * LATENTS))
    return pv.VAE(prior, likelihood.start_at_mean(x), guide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--transforms", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.transforms = 1, 1

    data = pv.data.load("digits")
    torch.manual_seed(0)  # the networks' first weights
    priors = {
        "standard normal": pv.priors.StandardNormal(LATENTS),
        "spline flow": pv.priors.Flow(LATENTS, transforms=args.transforms),
    }
    for name, prior in priors.items():
        vae = make_vae(prior, data.train.x)
        step = pv.Step(pyro.optim.Adam({"lr": 2e-3}))
        pv.fit(vae, data.train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        print(f"\n{name}\n{pv.evaluate(vae, data.test, particles=50 if args.smoke else 1000)}")


if __name__ == "__main__":
    main()
