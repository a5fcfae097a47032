"""Steps to the number: one VAE of Burda et al. (2016), trained by several recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from iwae import one_layer
from protocol import Row, Table, binary_mnist, burda, staged
from torch import Tensor

import pyrovae as pv

Rate = Callable[[int], float]


def trained_by(lr: Callable[[int], Rate], **settings: Any) -> Callable[[int], pv.Step]:
    """Return the step of Adam with a schedule, a function of the number of steps."""
    settings = {"kind": torch.optim.Adam, "eps": 1e-4} | settings
    return lambda steps: pv.Step(pv.Optim(lr=lr(steps), **settings))


def cosine(lr: float) -> Callable[[int], Rate]:
    return lambda steps: pv.learning_rates.cosine(lr, steps, warmup=steps // 100)


def one_cycle(lr: float) -> Callable[[int], Rate]:
    return lambda steps: pv.learning_rates.one_cycle(lr, steps)


def no_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim != 2


MUON = {
    "kind": torch.optim.Muon,
    "eps": 1e-7,
    "groups": {no_matrix: {"optimizer": torch.optim.Adam, "lr": 1e-3}},
}


def iwae(gradient: str) -> Callable[[int], pv.Step]:
    loss = pv.objectives.IWAE(1, gradient=gradient)
    return lambda steps: pv.Step(burda(steps), loss=loss)


def averaged() -> list[pv.Callback]:
    return [pv.EMA(0.9999)]


TABLE = Table(
    title="Steps to the number",
    text="""The VAE-1 with one layer of the table of importance weighted autoencoders,
784-200-200-50 with tanh, trained on the same images with the same number of images seen, by one
change at a time. The first row is the recipe of Burda et al. (2016), compressed.""",
    rows={
        "staged, Adam, batch 100": Row(one_layer, trained_by(staged)),
        "cosine from 1e-3": Row(one_layer, trained_by(cosine(1e-3))),
        "cosine from 2e-3": Row(one_layer, trained_by(cosine(2e-3))),
        "one cycle to 3e-3": Row(one_layer, trained_by(one_cycle(3e-3))),
        "cosine from 2e-3, average of the weights": Row(
            one_layer, trained_by(cosine(2e-3)), callbacks=averaged
        ),
        "cosine from 2e-3, batch 20": Row(one_layer, trained_by(cosine(2e-3)), batch=20),
        "cosine from 2e-3, batch 500": Row(one_layer, trained_by(cosine(2e-3)), batch=500),
        "cosine from 2e-3, AdamW": Row(
            one_layer, trained_by(cosine(2e-3), kind=torch.optim.AdamW, weight_decay=0.01)
        ),
        "cosine from 5e-3, Muon": Row(one_layer, trained_by(cosine(5e-3), **MUON)),
        "staged, STL gradients": Row(one_layer, iwae("stl")),
        "staged, DReG gradients": Row(one_layer, iwae("dreg")),
    },
    data=binary_mnist,
    steps=80_000,
)
