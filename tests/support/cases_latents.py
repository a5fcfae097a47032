"""A VAE around each prior and guide of several or of discrete latents."""

from __future__ import annotations

import torch
from cases import Case
from torch import nn

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.nets import MLP

X = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.5, -0.4], [-2.1, 0.7, 1.1], [0.9, 0.1, 0.2]])
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])


def case(prior: nn.Module, guide: nn.Module, latents: int) -> Case:
    """Return a VAE and an odd number of data: the halves of fair bits cannot add up to 0."""
    return Case(pv.VAE(prior, pv.likelihoods.Normal(MLP(latents, 4, 3)), guide), X[:3])


def ladder() -> priors.Hierarchical:
    return priors.Hierarchical(priors.StandardNormal(1), priors.ConditionalNormal(MLP(1, 4, 4)))


def bottom_up() -> Case:
    low, top = MLP(3, 4, 4), MLP(2, 4, 2)
    guide = guides.Hierarchical(guides.MeanFieldNormal(low), guides.MeanFieldNormal(top))
    return case(ladder(), guide, 2)


def top_down() -> Case:
    prior = ladder()
    guide = guides.Ladder(
        prior, upward=[MLP(3, 4), MLP(4, 4)], estimates=[MLP(4, 2 * 2), MLP(4, 2 * 1)]
    )
    return case(prior, guide, 2)


def conditional() -> Case:
    vae = pv.VAE(
        priors.ConditionalNormal(MLP(2, 4, 4)),
        pv.likelihoods.Normal(MLP(2 + 2, 4, 3)),
        guides.MeanFieldNormal(MLP(3 + 2, 4, 4)),
    )
    return Case(vae, X, (LABELS,))


def clusters() -> Case:
    prior = priors.Hierarchical(
        priors.Categorical(3, learned=True), priors.ConditionalNormal(MLP(3, 4, 4))
    )
    return case(prior, guides.Hierarchical(guides.MeanFieldNormal(MLP(3, 4, 4))), 2)


def class_and_style() -> Case:
    prior = priors.Joint(kind=priors.OneHot(2), style=priors.StandardNormal(1))
    guide = guides.Joint(
        kind=guides.OneHot(MLP(3, 4, 2)), style=guides.MeanFieldNormal(MLP(3 + 2, 4, 2))
    )
    return case(prior, guide, 2 + 1)


def bottleneck() -> Case:
    vae = pv.VAE(
        priors.StandardNormal(2),
        pv.likelihoods.Label(MLP(2, 4, 3), classes=3),
        guides.OfContext(guides.MeanFieldNormal(MLP(3, 4, 4))),
    )
    return Case(vae, torch.tensor([0, 2, 1, 2]), (X,))


def deep_ladder() -> Case:
    prior = priors.ResidualLadder((1, 2, 4), latents=2, channels=4)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MapsDecoder(prior.maps, (1, 4, 4)))
    x = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)).round()
    return Case(pv.VAE(prior, likelihood, guides.ResidualLadder(prior, (1, 4, 4))), x)


CASES = {
    "ResidualLadder": deep_ladder,
    "Label and OfContext": bottleneck,
    "Hierarchical, bottom-up": bottom_up,
    "Hierarchical, Ladder": top_down,
    "ConditionalNormal": conditional,
    "Hierarchical, clusters": clusters,
    "Joint": class_and_style,
    "Categorical": lambda: case(
        priors.Categorical(3, learned=True), guides.Categorical(MLP(3, 4, 3)), 3
    ),
    "OneHot": lambda: case(priors.OneHot(3, learned=True), guides.OneHot(MLP(3, 4, 3)), 3),
    "RelaxedOneHot": lambda: case(
        priors.RelaxedOneHot(3, temperature=0.7, learned=True),
        guides.RelaxedOneHot(MLP(3, 4, 3), temperature=0.5),
        3,
    ),
    "Bernoulli": lambda: case(
        priors.Bernoulli(3, learned=True), guides.Bernoulli(MLP(3, 4, 3)), 3
    ),
}
