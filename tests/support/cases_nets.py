"""A VAE around each network, as encoder and as decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Case
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.nets import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    GatedMLP,
    PixelCNN,
    ResidualMLP,
    ResNetDecoder,
    ResNetEncoder,
)

SHAPE = (2, 8, 9)
SIZE = 2 * 8 * 9
LABELS = torch.eye(2)[[0, 1, 1, 0]]


def binary(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, width, generator=generator).round()


def case(encoder: nn.Module, decoder: nn.Module, width: int) -> Case:
    """Return a VAE with two latents and binary data."""
    likelihood = pv.likelihoods.Bernoulli(decoder)
    guide = pv.guides.MeanFieldNormal(encoder)
    return Case(pv.VAE(pv.priors.StandardNormal(2), likelihood, guide), binary(width))


def perceptron() -> Case:
    return case(MLP(4, 5, 4), MLP(2, 5, 4), 4)


def gated() -> Case:
    return case(GatedMLP(4, 5, 4), GatedMLP(2, 5, 4), 4)


def residual() -> Case:
    return case(ResidualMLP(4, 5, 5, 4), ResidualMLP(2, 5, 5, 4), 4)


def convolutional() -> Case:
    return case(ConvEncoder(SHAPE, 4, channels=4), ConvDecoder(2, SHAPE, channels=4), SIZE)


def residual_convolutional() -> Case:
    return case(ResNetEncoder(SHAPE, 4, channels=4), ResNetDecoder(2, SHAPE, channels=4), SIZE)


def convolutional_with_scales() -> Case:
    """Ask a decoder for a channel of locations and one of scales."""
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(ConvDecoder(2, (2, 8, 8), channels=4), scale="network"),
        pv.guides.MeanFieldNormal(ConvEncoder((1, 8, 8), 4, channels=4)),
    )
    return Case(vae, binary(64))


def conditional() -> Case:
    """Give a label to both networks."""
    made = case(MLP(SIZE + 2, 5, 4), ConvDecoder(2 + 2, SHAPE, channels=4), SIZE)
    return Case(made.vae, made.x, (LABELS,))


def autoregressive() -> Case:
    pixels = PixelCNN((1, 2, 3), 2, channels=4, blocks=1)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.AutoregressiveBernoulli(MLP(2 + 2, 5, 2 * 6), pixels),
        pv.guides.MeanFieldNormal(MLP(6 + 2, 5, 4)),
    )
    return Case(vae, binary(6), (LABELS,))


CASES: dict[str, Callable[[], Case]] = {
    "MLP": perceptron,
    "GatedMLP": gated,
    "ResidualMLP": residual,
    "Conv": convolutional,
    "ResNet": residual_convolutional,
    "Conv with scales": convolutional_with_scales,
    "conditional Conv": conditional,
    "PixelCNN": autoregressive,
}
