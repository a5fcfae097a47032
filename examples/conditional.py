"""Conditional VAEs: digits given their label, and the lower half of an image given the upper.

Prior, likelihood and guide all get the context c: p(z | c) p(x | z, c) and q(z | x, c). For
generation the context is the one-hot label. For completion it is the upper half of the image, and
x is the lower half. z need not encode information that is in the context, so the rate is lower.

References:
    Sohn, Lee, Yan, 2015. Learning Structured Output Representation using Deep Conditional
    Generative Models.
"""

import argparse

import pyro
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP

LATENTS, HIDDEN = 6, 200


def make_vae(x: Tensor, context: int) -> pv.VAE:
    """Return a VAE of x whose parts take a context of the given width (0 for none)."""
    width = x.shape[-1]
    if context:
        prior = pv.priors.ConditionalNormal(MLP(context, HIDDEN, 2 * LATENTS))
    else:
        prior = pv.priors.StandardNormal(LATENTS)
    likelihood = pv.likelihoods.Bernoulli(MLP(LATENTS + context, HIDDEN, width))
    guide = pv.guides.MeanFieldNormal(MLP(width + context, HIDDEN, 2 * LATENTS))
    return pv.VAE(prior, likelihood.start_at_mean(x), guide)


def tasks(split: pv.data.Split) -> dict[str, tuple[Tensor, ...]]:
    """Return data and context of each task; the pixels are binarized once."""
    x = split.draw()
    labels = torch.nn.functional.one_hot(split.labels, 10).to(x.dtype)
    return {
        "an image": (x,),
        "an image, given its label": (x, labels),
        "the lower half": (x[:, 32:],),
        "the lower half, given the upper": (x[:, 32:], x[:, :32]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--figure", metavar="PNG", help="draw a row of digits for each label")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    train, test = tasks(data.train), tasks(data.test)
    torch.manual_seed(0)  # the networks' first weights
    vaes = {}
    for name, given in train.items():
        vaes[name] = make_vae(given[0], sum(c.shape[-1] for c in given[1:]))
        step = pv.Step(pyro.optim.Adam({"lr": 2e-3}))
        pv.fit(vaes[name], given, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
        report = pv.evaluate(vaes[name], test[name], particles=50 if args.smoke else 1000)
        print(f"\n{name}\n{report}")
    if args.figure:
        draw(vaes["an image, given its label"], args.figure)


def draw(vae: pv.VAE, path: str) -> None:
    """Plot the means of p(x | z, c) at samples z ~ p(z | c), one row per label."""
    import matplotlib.pyplot as plt

    labels = torch.eye(10).repeat_interleave(10, 0)
    with torch.no_grad():
        means = vae.predictive(100, labels).mean
    figure, axes = plt.subplots(10, 10, figsize=(6, 6), layout="constrained")
    for axis, image in zip(axes.flat, means, strict=True):
        axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
