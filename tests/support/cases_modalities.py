"""VAEs of two modalities, of which some data have one only, around each guide of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Case

import pyrovae as pv
from pyrovae import guides, likelihoods

MLP = partial(pv.nets.MLP, activation=torch.nn.Tanh)
X = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.5, 1.0], [-2.1, 0.7, 0.0], [0.9, 0.1, 1.0]])
MASK = torch.tensor([[True, True], [True, False], [False, True], [False, False]])


def case(guide: Callable[..., torch.nn.Module], *context: torch.Tensor) -> Case:
    both = pv.nets.Modalities(real=2, kind=1)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        likelihoods.EachModality(
            both,
            real=likelihoods.Normal(MLP(2, 5, 2)),
            kind=likelihoods.Categorical(MLP(2, 5, 3), classes=3),
        ),
        guide(both, real=MLP(2, 5, 4), kind=MLP(1, 5, 4)),
    )
    return Case(vae, X, context)


CASES: dict[str, Callable[[], Case]] = {
    "ProductOfExperts": partial(case, guides.ProductOfExperts),
    "ProductOfExperts, some missing": partial(case, guides.ProductOfExperts, MASK),
    "MixtureOfExperts, some missing": partial(case, guides.MixtureOfExperts, MASK),
    "MixtureOfProducts, some missing": partial(case, guides.MixtureOfProducts, MASK),
}
