"""The VampPrior: a mixture of the guide's posteriors at learned pseudo-inputs.

p(z) = 1/C sum_c q(z | u_c) shares the encoder with the guide, so the prior is the aggregate
posterior of C learned images. It is compared with the standard normal prior on the digits, or with
`--data mnist --root data` on dynamically binarized MNIST. `--figure` plots pseudo-inputs.

References:
    Tomczak, Welling, 2018. VAE with a VampPrior.
"""

import argparse
import math

import pyro
import torch

import pyrovae as pv


def make_vaes(data: pv.data.DataSet, latents: int, components: int) -> dict[str, pv.VAE]:
    width = math.prod(data.shape)

    def likelihood() -> pv.likelihoods.Bernoulli:
        net = pv.nets.MLP(latents, 200, 200, width, activation=torch.nn.Tanh)
        return pv.likelihoods.Bernoulli(net).start_at_mean(data.train.x)

    def guide() -> pv.guides.MeanFieldNormal:
        net = pv.nets.MLP(width, 200, 200, 2 * latents, activation=torch.nn.Tanh)
        return pv.guides.MeanFieldNormal(net)

    shared = guide()
    vamp = pv.priors.VampPrior(shared, components).start_at_data(data.train.x)
    return {
        "standard normal": pv.VAE(pv.priors.StandardNormal(latents), likelihood(), guide()),
        "VampPrior": pv.VAE(vamp, likelihood(), shared),
    }


def show(prior: pv.priors.VampPrior, shape: tuple[int, int, int], path: str) -> None:
    """Plot the first pseudo-inputs as images."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 10, figsize=(8, 3.4), layout="constrained")
    for axis, image in zip(axes.flat, prior.pseudo_inputs.detach(), strict=False):
        axis.imshow(image.reshape(shape[1:]), cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--root", help="the folder of MNIST/raw")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latents", type=int, default=8)
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--figure", metavar="PNG", help="draw pseudo-inputs")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.components = 1, 20

    data = pv.data.load(args.data, args.root)
    torch.manual_seed(0)  # the networks' first weights
    vaes = make_vaes(data, args.latents, args.components)
    for name, vae in vaes.items():
        step = pv.Step(pyro.optim.Adam({"lr": 2e-3}))
        pv.fit(vae, data.train, epochs=args.epochs, step=step, callbacks=[])
        print(f"\n{name}\n{pv.evaluate(vae, data.test, particles=100 if args.smoke else 1000)}")
    if args.figure:
        show(vaes["VampPrior"].prior, data.shape, args.figure)


if __name__ == "__main__":
    main()
