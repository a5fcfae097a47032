"""A VAE around each likelihood of one number for each dimension of x."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Case
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.nets import MLP, Rescaled

REAL = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.5, -0.4], [-2.1, 0.7, 1.1], [9.0, 0.1, 0.2]])
UNIT = torch.tensor([[0.0, 0.2, 1.0], [0.5, 1.0, 0.7], [0.9, 0.0, 0.3], [0.1, 0.4, 0.6]])
PIXELS = torch.tensor([[0.0, 3.0, 5.0], [2.0, 0.0, 4.0], [5.0, 5.0, 1.0], [1.0, 0.0, 3.0]])


def case(likelihood: Callable[[nn.Module], nn.Module], outputs: int, x: Tensor) -> Case:
    """Return a VAE with two latents whose likelihood asks for so many outputs for each x_i."""
    width = x.shape[-1]
    encoder = Rescaled(MLP(width, 4, 4), low=float(x.min()), high=float(x.max()))
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=likelihood(MLP(2, 4, outputs * width)),
        guide=pv.guides.MeanFieldNormal(encoder),
    )
    return Case(vae, x)


FAMILIES = {
    "Bernoulli": (likelihoods.Bernoulli, 1, (UNIT > 0.5).float()),
    "Normal, learned": (likelihoods.Normal, 1, REAL),
    "Normal, network": (partial(likelihoods.Normal, scale="network"), 2, REAL),
    "Normal, fixed": (partial(likelihoods.Normal, scale=0.5), 1, REAL),
    "Laplace, learned": (likelihoods.Laplace, 1, REAL),
    "Laplace, network": (partial(likelihoods.Laplace, scale="network"), 2, REAL),
    "StudentT, learned": (likelihoods.StudentT, 1, REAL),
    "StudentT, network": (partial(likelihoods.StudentT, df=2.5, scale="network"), 2, REAL),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, 1, UNIT),
    "Beta": (likelihoods.Beta, 2, 0.5 + 0.99 * (UNIT - 0.5)),
    "Categorical": (partial(likelihoods.Categorical, classes=6), 6, PIXELS),
    "DiscretizedLogisticMixture": (
        partial(likelihoods.DiscretizedLogisticMixture, components=2, levels=6),
        6,
        PIXELS,
    ),
}

CASES: dict[str, Callable[[], Case]] = {
    name: partial(case, *family) for name, family in FAMILIES.items()
}
