"""Importance weighted autoencoders: Burda, Grosse, Salakhutdinov (2016), Table 1, MNIST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from protocol import Row, Table, binary_mnist, burda
from pyro.infer import Trace_ELBO
from torch import Tensor

import pyrovae as pv

PIXELS = 784


def tanh(*sizes: int) -> pv.nets.MLP:
    return pv.nets.MLP(*sizes, activation=torch.nn.Tanh)


def one_layer(x: Tensor) -> pv.VAE:
    """784-200-200-50."""
    likelihood = pv.likelihoods.Bernoulli(tanh(50, 200, 200, PIXELS)).start_at_mean(x)
    guide = pv.guides.MeanFieldNormal(tanh(PIXELS, 200, 200, 2 * 50))
    return pv.VAE(pv.priors.StandardNormal(50), likelihood, guide)


def two_layers(x: Tensor) -> pv.VAE:
    """784-200-200-100-100-100-50."""
    normal = pv.guides.MeanFieldNormal
    prior = pv.priors.Hierarchical(
        pv.priors.StandardNormal(50), pv.priors.ConditionalNormal(tanh(50, 100, 100, 2 * 100))
    )
    likelihood = pv.likelihoods.Bernoulli(tanh(100, 200, 200, PIXELS)).start_at_mean(x)
    guide = pv.guides.Hierarchical(
        normal(tanh(PIXELS, 200, 200, 2 * 100)), normal(tanh(100, 100, 100, 2 * 50))
    )
    return pv.VAE(prior, likelihood, guide)


def vae(particles: int) -> Callable[[int], pv.Step]:
    elbo = Trace_ELBO(particles, max_plate_nesting=1, vectorize_particles=True)
    return lambda steps: pv.Step(pv.Optim.muon(steps), loss=elbo)


def iwae(particles: int, **settings: Any) -> Callable[[int], pv.Step]:
    loss = pv.objectives.IWAE(particles, **settings)
    return lambda steps: pv.Step(pv.Optim.muon(steps), loss=loss)


def row(
    make: Callable[[Tensor], pv.VAE],
    step: Callable[[int], pv.Step],
    *known: Any,
    parts: int = 1,
) -> Row:
    nll, replicated, *units = known
    return Row(make, step, nll, units, replicated=replicated, batch=500, accumulate=parts)


TABLE = Table(
    title="Importance weighted autoencoders, MNIST",
    text="""Burda, Grosse, Salakhutdinov (2016), Table 1: -IWAE-5000 on the 10,000 test images.
Theirs: 60,000 images, binarized anew at each use, batches of 20, Adam (eps 1e-4), eight stages of
$3^i$ epochs at $10^{-3 - i/7}$, 9.8 million steps. Ours: the same images, networks and plain
gradients; the best recipe of [steps to the number](recipes.md), Muon along a cosine from 0.03 with
batches of 500, over the steps of the row; the test images binarized once. One row has the
gradients of Tucker et al. (2019), DReG. The last row has their schedule over the
steps of the row, with batches of 100. Numbers in brackets are those of a
[replication](https://github.com/xqding/Importance_Weighted_Autoencoders) in torch.""",
    rows={
        "one layer, VAE-1": row(one_layer, vae(1), 86.76, 87.78, 19),
        "one layer, VAE-5": row(one_layer, vae(5), 86.47, 87.15, 20),
        "one layer, VAE-50": row(one_layer, vae(50), 86.35, 87.47, 20, parts=5),
        "one layer, IWAE-5": row(one_layer, iwae(5), 85.54, 85.46, 22),
        "one layer, IWAE-50": row(one_layer, iwae(50), 84.78, 84.59, 25),
        "two layers, VAE-1": row(two_layers, vae(1), 85.33, 89.16, 16, 5),
        "two layers, VAE-5": row(two_layers, vae(5), 85.01, 91.37, 17, 5),
        "two layers, VAE-50": row(two_layers, vae(50), 84.78, 89.16, 17, 5, parts=5),
        "two layers, IWAE-5": row(two_layers, iwae(5), 83.89, 84.69, 21, 5),
        "two layers, IWAE-50": row(two_layers, iwae(50), 82.90, 83.29, 26, 7, parts=5),
        "two layers, IWAE-5, DReG gradients": row(
            two_layers, iwae(5, gradient="dreg"), 83.89, 84.69, 21, 5
        ),
        "one layer, VAE-1, their schedule": Row(
            one_layer, lambda steps: pv.Step(burda(steps)), 86.76, (19,)
        ),
    },
    data=binary_mnist,
    steps=80_000,
)
