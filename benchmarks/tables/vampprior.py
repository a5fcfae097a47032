"""VAE with a VampPrior: Tomczak, Welling (2018), MNIST, dynamic binarization."""

from __future__ import annotations

import torch
from protocol import Row, Splits, Table
from torch import Tensor

import pyrovae as pv

PIXELS, LATENTS, HIDDEN, EPOCHS, WARM_UP = 784, 40, 300, 300, 100


def gated(*sizes: int) -> pv.nets.GatedMLP:
    return pv.nets.GatedMLP(*sizes)


def guide() -> pv.guides.MeanFieldNormal:
    return pv.guides.MeanFieldNormal(gated(PIXELS, HIDDEN, HIDDEN, 2 * LATENTS))


def likelihood(x: Tensor) -> pv.likelihoods.Bernoulli:
    net = gated(LATENTS, HIDDEN, HIDDEN, PIXELS)
    return pv.likelihoods.Bernoulli(net).start_at_mean(x)


def standard(x: Tensor) -> pv.VAE:
    return pv.VAE(pv.priors.StandardNormal(LATENTS), likelihood(x), guide())


def vampprior(x: Tensor) -> pv.VAE:
    shared = guide()
    prior = pv.priors.VampPrior(shared, 500).start_at_data(x)
    return pv.VAE(prior, likelihood(x), shared)


def step(steps: int) -> pv.Step:
    optim = pv.Optim(torch.optim.Adam, lr=5e-4)
    return pv.Step(optim, kl_weight=pv.schedules.linear(0, 1, WARM_UP))


def splits(root: str) -> Splits:
    data = pv.data.load("mnist", root)
    return Splits(data.train, data.test)


TABLE = Table(
    title="VAE with a VampPrior, MNIST",
    text="""Tomczak, Welling (2018): -IWAE-5000 on the 10,000 test images. Theirs: 50,000 images,
binarized anew at each use, gated networks 784-300-300-40, 500 pseudo-inputs, Adam at 5e-4, batches
of 100, a KL weight that rises over 100 epochs, until 50 epochs bring no gain. Ours: the same
over the steps of the row, 500 of them an epoch, without stopping.""",
    rows={
        "standard normal": Row(standard, step, 84.50),
        "VampPrior": Row(vampprior, step, 82.38),
    },
    data=splits,
    steps=EPOCHS * 500,
)
