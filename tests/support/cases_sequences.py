"""VAEs of sequences: a Markov chain of latents, observed step by step, with padding."""

from __future__ import annotations

from functools import partial

import torch
from cases import Case

import pyrovae as pv

MLP = partial(pv.nets.MLP, activation=torch.nn.Tanh)
MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])


def markov() -> Case:
    vae = pv.VAE(
        pv.priors.Markov(MLP(2, 5, 2 * 2), 2),
        pv.likelihoods.EachStep(pv.likelihoods.Normal(MLP(2, 5, 2))),
        pv.guides.Combiner(pv.nets.BackwardGRU(2, 4), MLP(2 + 4, 5, 2 * 2), 2),
    )
    x = torch.linspace(-1.0, 1.0, 18).reshape(3, 3, 2)
    return Case(vae, x, (MASK,))


def linear_states() -> Case:
    """With covariates of each step, which all three parts take."""
    likelihood = pv.likelihoods.LinearStates(
        MLP(2 + 1, 5, 4 + 2), states=2, width=2, varying=["transition", "offset"]
    )
    vae = pv.VAE(
        pv.priors.Markov(MLP(2 + 1, 5, 2 * 2), 2),
        likelihood,
        pv.guides.Combiner(pv.nets.BackwardGRU(2 + 1, 4), MLP(2 + 4, 5, 2 * 2), 2),
    )
    x = torch.linspace(-1.0, 1.0, 18).reshape(3, 3, 2)
    return Case(vae, x, (x.sum(-1, keepdim=True), MASK))


CASES = {"Markov": markov, "LinearStates": linear_states}
