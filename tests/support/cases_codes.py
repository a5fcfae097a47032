"""A VAE around each way to quantize, and around each prior over codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Case

import pyrovae as pv
from pyrovae import guides, nets, priors

MLP = partial(pv.nets.MLP, activation=torch.nn.Tanh)
X = torch.tensor(
    [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
)
POSITIONS, WIDTH = 2, 2


def case(
    make: Callable[[torch.nn.Module], guides.VectorQuantized],
    prior: Callable[[nets.Quantizer], torch.nn.Module],
) -> Case:
    guide = make(MLP(4, 5, POSITIONS * WIDTH))
    likelihood = pv.likelihoods.Bernoulli(MLP(POSITIONS * WIDTH, 5, 4))
    # In evaluation mode: a training step moves the codebook, so that no two are the same.
    return Case(pv.VAE(prior(guide.quantizer), likelihood, guide).eval(), X)


def quantized(net: torch.nn.Module, **options: object) -> guides.VectorQuantized:
    return guides.VectorQuantized(net, nets.Codebook(3, WIDTH, **options))  # type: ignore[arg-type]


def chain(quantizer: nets.Quantizer) -> priors.AutoregressiveCodes:
    size = POSITIONS * quantizer.depth
    net = nets.CausalTransformer(size, quantizer.codes, channels=4, heads=2, blocks=1)
    return priors.AutoregressiveCodes(quantizer, net)


uniform = partial(priors.Codes, positions=POSITIONS)
learned = partial(uniform, learned=True)

CASES: dict[str, Callable[[], Case]] = {
    "VectorQuantized": partial(case, quantized, uniform),
    "VectorQuantized by a loss": partial(case, partial(quantized, update="loss"), learned),
    "VectorQuantized, two levels": partial(case, partial(quantized, depth=2), learned),
    "FSQ": partial(case, partial(guides.FSQ, levels=[3, 2]), learned),
    "AutoregressiveCodes": partial(case, quantized, chain),
    "AutoregressiveCodes, two levels": partial(case, partial(quantized, depth=2), chain),
}
