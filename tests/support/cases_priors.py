"""A VAE around each prior over one site "z", and around each guide of normals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Case

import pyrovae as pv
from pyrovae import guides, priors

MLP = partial(pv.nets.MLP, activation=torch.nn.Tanh)  # five rectified units may all be off
X = torch.tensor(
    [[0.2, -1.0, 0.5, 1.4], [1.1, 0.3, -0.7, 0.0], [-0.4, 0.8, 0.9, -1.3], [0.6, -0.2, 2.0, 0.1]]
)
LABELS = torch.eye(3)[[2, 0, 1, 1]]


def normal_guide(context: int = 0) -> guides.Guide:
    return guides.MeanFieldNormal(MLP(4 + context, 5, 2 * 2))


def full_rank_guide() -> guides.Guide:
    return guides.FullRankNormal(MLP(4, 5, guides.FullRankNormal.width(2)))


def low_rank_guide() -> guides.Guide:
    return guides.LowRankNormal(MLP(4, 5, guides.LowRankNormal.width(2, 1)), rank=1)


def mixture_guide(component: str = "enumerated") -> torch.nn.Module:
    net = MLP(4, 5, guides.MixtureOfNormals.width(2, 3))
    return guides.MixtureOfNormals(net, components=3, component=component)


def case(
    prior: Callable[[], torch.nn.Module], guide: Callable[[], guides.Guide] = normal_guide
) -> Case:
    likelihood = pv.likelihoods.Normal(MLP(2, 5, 4), scale=0.8)
    return Case(pv.VAE(prior(), likelihood, guide()), X)


def conditional() -> Case:
    likelihood = pv.likelihoods.Normal(MLP(2 + 3, 5, 4), scale=0.8)
    prior = priors.ConditionalNormal(MLP(3, 5, 2 * 2))
    return Case(pv.VAE(prior, likelihood, normal_guide(3)), X, (LABELS,))


def vamp(guide: Callable[[], guides.Guide]) -> Case:
    shared = guide()
    prior = priors.VampPrior(shared, 3).start_at_data(X)
    return case(lambda: prior, lambda: shared)


CASES: dict[str, Callable[[], Case]] = {
    "StandardNormal": partial(case, partial(priors.StandardNormal, 2)),
    "Normal": partial(case, partial(priors.Normal, 2)),
    "StudentT": partial(case, partial(priors.StudentT, 2, df=3.0)),
    "Laplace": partial(case, partial(priors.Laplace, 2)),
    "ConditionalNormal": conditional,
    "MixtureOfNormals": partial(case, partial(priors.MixtureOfNormals, 2, 3)),
    "MixtureOfNormals, enumerated": partial(
        case, partial(priors.MixtureOfNormals, 2, 3, component="enumerated")
    ),
    "VampPrior": partial(vamp, normal_guide),
    "VampPrior of full covariances": partial(vamp, full_rank_guide),
    "VampPrior of mixtures": partial(vamp, mixture_guide),
    "FullRankNormal": partial(case, partial(priors.Normal, 2), full_rank_guide),
    "LowRankNormal": partial(case, partial(priors.Normal, 2), low_rank_guide),
    "guides.MixtureOfNormals": partial(case, partial(priors.Normal, 2), mixture_guide),
    "guides.MixtureOfNormals, marginal": partial(
        case, partial(priors.Normal, 2), partial(mixture_guide, component="marginal")
    ),
    "MixtureOfNormals in both": partial(
        case, partial(priors.MixtureOfNormals, 2, 2, component="enumerated"), mixture_guide
    ),
}
