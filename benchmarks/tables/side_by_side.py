"""The same nets, bits and number of steps: pyrovae, pythae, and a loop written by hand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from peers import by_hand, by_pythae, pythae_vae
from protocol import Row, Table, binary_mnist
from torch import Tensor

import pyrovae as pv

PIXELS, LATENTS, HIDDEN, LR = 784, 40, 400, 1e-4
EPOCHS, MILESTONES, FACTOR = 500, (200, 350), 10 ** (-1 / 5)


def by_milestones(steps: int) -> Callable[[int], float]:
    """Return pythae's schedule, 1e-4 divided by 10^(1/5) at 0.4 and at 0.7 of the steps.

    >>> rate = by_milestones(500)
    >>> [round(1e6 * rate(t)) for t in (0, 199, 200, 349, 350)]
    [100, 100, 63, 63, 40]
    """
    ends = [steps * milestone / EPOCHS for milestone in MILESTONES]
    return lambda t: LR * FACTOR ** bisect_right(ends, t)


def milestones(epochs: int) -> dict[str, Any]:
    """Return the same schedule as pythae takes it, counted in epochs."""
    ends = [round(epochs * milestone / EPOCHS) for milestone in MILESTONES]
    return {"milestones": ends, "gamma": FACTOR}


def step(**settings: Any) -> Callable[[int], pv.Step]:
    return lambda steps: pv.Step(pv.Optim(torch.optim.Adam, lr=by_milestones(steps)), **settings)


def encoder() -> pv.nets.MLP:
    return pv.nets.MLP(PIXELS, HIDDEN, 2 * LATENTS)


def decoder() -> pv.nets.MLP:
    return pv.nets.MLP(LATENTS, HIDDEN, PIXELS)


def ours(x: Tensor) -> pv.VAE:
    guide = pv.guides.MeanFieldNormal(encoder())
    return pv.VAE(pv.priors.StandardNormal(LATENTS), pv.likelihoods.Bernoulli(decoder()), guide)


def our_vampprior(x: Tensor) -> pv.VAE:
    guide = pv.guides.MeanFieldNormal(encoder())
    prior = pv.priors.VampPrior(guide, 50).start_at_data(x)
    return pv.VAE(prior, pv.likelihoods.Bernoulli(decoder()), guide)


def theirs(name: str, **settings: Any) -> Callable[[Tensor], pv.VAE]:
    """Return a maker of pythae's model of that name with the same networks."""
    sizes = {"input_dim": (PIXELS,), "latent_dim": LATENTS}
    return lambda x: pythae_vae(name, encoder(), decoder(), **sizes, **settings)


def by_adam(vae: pv.VAE, steps: int) -> Any:
    return [(torch.optim.Adam(vae.parameters()), by_milestones(steps))]


LOOP = by_hand(by_adam)
TRAINER = by_pythae(
    learning_rate=LR, scheduler_cls="MultiStepLR", scheduler_params=milestones, seed=0
)


TABLE = Table(
    title="Side by side with pythae",
    text="""pythae's protocol for its VAE: 784-400-40 and back, ReLU, batches of 100, Adam at 1e-4,
divided by $10^{1/5}$ at 0.4 and 0.7 of the training, 500 epochs there, as many as the steps of the
row here; 60,000 images, binarized anew at each use. All are scored by our estimator on the same
bits: pythae's released `get_nll` ignores `n_samples` below its batch size. The row by hand is a
loop in torch over the networks of ours. pythae's trainer reads the images one by one, and copies
the model whenever the training loss falls.""",
    rows={
        "pyrovae, VAE": Row(ours, step()),
        "by hand, VAE": Row(ours, step(), loop=LOOP),
        "pythae, VAE": Row(theirs("VAE"), step(), loop=TRAINER),
        "pyrovae, IWAE-10": Row(ours, step(loss=pv.objectives.IWAE(10))),
        "pythae, IWAE-10": Row(theirs("IWAE", number_samples=10), step(), loop=TRAINER),
        "pyrovae, VampPrior of 50": Row(our_vampprior, step()),
        "pythae, VAMP of 50": Row(theirs("VAMP", number_components=50), step(), loop=TRAINER),
    },
    data=binary_mnist,
    steps=30_000,
)
