"""VAEs of sequences whose steps depend on those before: tokens, keys and numbers, with padding."""

from __future__ import annotations

from functools import partial

import torch
from cases import Case

import pyrovae as pv
from pyrovae import likelihoods, nets

MLP = partial(nets.MLP, activation=torch.nn.Tanh)
MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
TOKENS = torch.tensor([[2.0, 1.0, 3.0], [0.0, 0.0, 0.0], [3.0, 0.0, 2.0]]).unsqueeze(-1)


def encoder(embed: nets.EmbedTokens | nets.MLP, context: int = 0) -> nets.EncodeSequence:
    return nets.EncodeSequence(embed, nets.BackwardGRU(3, 4), MLP(4 + context, 2 * 2))


def tokens() -> Case:
    """End at token 0, which the second sequence is."""
    net = nets.CausalGRU(nets.EmbedTokens(4, 3), 3, 2, 4)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        likelihoods.Autoregressive(net, likelihoods.Categorical(MLP(4, 4), classes=4), end=0),
        pv.guides.MeanFieldNormal(encoder(nets.EmbedTokens(4, 3))),
    )
    return Case(vae, TOKENS, (MASK,))


def keys() -> Case:
    """Give a covariate to the decoder and to the encoder, before the mask."""
    net = nets.CausalAttention(MLP(2, 4), 3, 2 + 1, channels=4, heads=2, blocks=1)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        likelihoods.Autoregressive(net, likelihoods.Bernoulli(MLP(4, 2))),
        pv.guides.MeanFieldNormal(encoder(MLP(2, 3), 1)),
    )
    covariate = torch.tensor([[0.5], [-1.0], [0.3]])
    return Case(vae, (torch.arange(18.0) % 4 < 2).float().reshape(3, 3, 2), (covariate, MASK))


def numbers() -> Case:
    net = nets.CausalGRU(MLP(2, 3), 3, 2, 4)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        likelihoods.Autoregressive(net, likelihoods.Normal(MLP(4, 2))),
        pv.guides.MeanFieldNormal(encoder(MLP(2, 3))),
    )
    return Case(vae, torch.linspace(-1.0, 1.0, 18).reshape(3, 3, 2), (MASK,))


CASES = {"tokens": tokens, "keys": keys, "numbers": numbers}
