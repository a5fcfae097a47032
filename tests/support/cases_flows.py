"""VAEs with flows and hyperspheres."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Case

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.distributions.flows import Kind
from pyrovae.nets import MLP

WIDTH, LATENTS, FEATURES = 5, 3, 4
SMALL = {"transforms": 2, "hidden": 8}


def _case(prior: torch.nn.Module, guide: torch.nn.Module) -> Case:
    x = torch.tensor([[0.0, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 0, 1, 0], [0, 0, 1, 1, 1]])
    return Case(pv.VAE(prior, pv.likelihoods.Bernoulli(MLP(LATENTS, 8, WIDTH)), guide), x)


def flow_prior(kind: Kind) -> Case:
    """A flow prior with the mean-field guide."""
    guide = guides.MeanFieldNormal(MLP(WIDTH, 8, 2 * LATENTS))
    return _case(priors.Flow(LATENTS, kind=kind, **SMALL), guide)


def ode_prior() -> Case:
    """A prior by an ODE with the mean-field guide."""
    guide = guides.MeanFieldNormal(MLP(WIDTH, 8, 2 * LATENTS))
    return _case(priors.ContinuousFlow(LATENTS, hidden=8, steps=2), guide)


def flow_guide(kind: Kind) -> Case:
    """The standard normal prior with a flow guide."""
    net = MLP(WIDTH, 8, FEATURES)
    guide = guides.Flow(net, LATENTS, features=FEATURES, kind=kind, **SMALL)
    return _case(priors.StandardNormal(LATENTS), guide)


def flow_of_one_latent() -> Case:
    """Flows of both sides over a single latent, which has none to be autoregressive in."""
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    guide = guides.Flow(MLP(2, 8, FEATURES), 1, features=FEATURES, **SMALL)
    likelihood = pv.likelihoods.Bernoulli(MLP(1, 8, 2))
    return Case(pv.VAE(priors.Flow(1, **SMALL), likelihood, guide), x)


def sphere() -> Case:
    """The uniform sphere with its power-spherical guide."""
    guide = guides.PowerSpherical(MLP(WIDTH, 8, LATENTS + 1))
    return _case(priors.UniformSphere(LATENTS), guide)


CASES: dict[str, Callable[[], Case]] = {
    "ODE prior": ode_prior,
    "spline flow prior": partial(flow_prior, "spline"),
    "affine flow prior": partial(flow_prior, "affine"),
    "spline flow guide": partial(flow_guide, "spline"),
    "affine flow guide": partial(flow_guide, "affine"),
    "flows of one latent": flow_of_one_latent,
    "hypersphere": sphere,
}
