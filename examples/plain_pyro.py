"""Use Pyro's own tools on `vae.model` and `vae.guide`, which are ordinary Pyro programs.

- `SVI` with `Trace_ELBO` trains the VAE; Pyro's parameter store stays empty.
- `Predictive` samples z from the guide, and new data from the model given these z.
- `poutine.condition` fixes the latents to a line between two digits and runs the model there.
- `poutine.scale` changes the loss of SVI, but not the result of `log_weights`.

It prints the result of each, then the report of the pair of programs.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

import pyrovae as pv
from pyrovae.nets import MLP

LATENTS = 8


def train(vae: pv.VAE, x: torch.Tensor, epochs: int) -> None:
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 4e-3}), Trace_ELBO())
    first = svi.evaluate_loss(x) / len(x)
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(50):
            svi.step(batch)
    last = svi.evaluate_loss(x) / len(x)
    print(f"SVI: loss {first:.2f} before, {last:.2f} after {epochs} epochs, nats per datum")
    print(f"Pyro's parameter store holds {len(pyro.get_param_store())} parameters")


def predict(vae: pv.VAE, x: torch.Tensor, draws: int) -> None:
    z = Predictive(vae.guide, num_samples=draws)(x)["z"]  # [draws, N, D]
    replicated = Predictive(vae.model, posterior_samples={"z": z})(None, size=len(x))["x"]
    agreement = (replicated == x).double().mean()
    others = (replicated.flip(1) == x).double().mean()
    print(
        f"Predictive: {100 * agreement:.1f}% of pixels drawn given a digit's own z agree with it, "
        f"{100 * others:.1f}% given another's"
    )


def walk(vae: pv.VAE, x: torch.Tensor) -> None:
    start, end = vae.encode(x[:2]).mean.detach()
    z = torch.lerp(start, end, torch.linspace(0, 1, 5)[:, None])
    held = poutine.trace(poutine.condition(vae.model, data={"z": z}))
    trace = held.get_trace(None, size=len(z))
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    distance = (trace.nodes["x"]["fn"].mean - x[0]).abs().sum(-1)
    print("poutine.condition: from one digit's z to another's")
    for step, (far, log_p) in enumerate(zip(distance, log_prior, strict=True)):
        print(f"  {25 * step:3d}%  pixels away from the first {far:5.1f}   log p(z) {log_p:6.2f}")


def tempered(vae: pv.VAE, x: torch.Tensor) -> None:
    model, guide = poutine.scale(vae.model, 0.1), poutine.scale(vae.guide, 0.1)
    loss = Trace_ELBO(num_particles=20).loss(model, guide, x) / len(x)
    bound = pv.log_weights((model, guide), x, particles=20).mean()
    print(f"poutine.scale by 0.1: Pyro's loss {loss:.2f}, the ELBO reported {bound:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="two epochs, few particles")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.particles = 2, 50

    data = pv.data.load("digits", binarization="static")
    x, test = data.train.x, data.test.x
    torch.manual_seed(0)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(MLP(LATENTS, 200, x.shape[1])),
        guide=pv.guides.MeanFieldNormal(MLP(x.shape[1], 200, 2 * LATENTS)),
    )
    train(vae, x, args.epochs)
    predict(vae, test, draws=10)
    walk(vae, test)
    tempered(vae, test)
    print(pv.evaluate((vae.model, vae.guide), test, particles=args.particles))


if __name__ == "__main__":
    main()
