"""Priors, guides and objectives beside the plain VAE: the same networks, recipe and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iwae import PIXELS, one_layer, tanh
from protocol import Row, Table, binary_mnist
from torch import Tensor

import pyrovae as pv
from pyrovae.objectives import IWAE

LATENTS, COMPONENTS, RANK, FEATURES = 50, 500, 5, 100


def encoder(outputs: int = 2 * LATENTS) -> pv.nets.MLP:
    return tanh(PIXELS, 200, 200, outputs)


def composed(x: Tensor, prior: Any, guide: Any) -> pv.VAE:
    likelihood = pv.likelihoods.Bernoulli(tanh(LATENTS, 200, 200, PIXELS)).start_at_mean(x)
    return pv.VAE(prior, likelihood, guide)


def with_prior(prior: Callable[[], Any]) -> Callable[[Tensor], pv.VAE]:
    return lambda x: composed(x, prior(), pv.guides.MeanFieldNormal(encoder()))


def with_guide(guide: Callable[[], Any]) -> Callable[[Tensor], pv.VAE]:
    return lambda x: composed(x, pv.priors.StandardNormal(LATENTS), guide())


def vampprior(x: Tensor) -> pv.VAE:
    guide = pv.guides.MeanFieldNormal(encoder())
    return composed(x, pv.priors.VampPrior(guide, COMPONENTS).start_at_data(x), guide)


def low_rank() -> pv.guides.LowRankNormal:
    width = pv.guides.LowRankNormal.width(LATENTS, RANK)
    return pv.guides.LowRankNormal(encoder(width), RANK)


def flow_guide() -> pv.guides.Flow:
    settings = {"kind": "affine", "transforms": 2, "hidden": 320}
    return pv.guides.Flow(encoder(FEATURES), LATENTS, features=FEATURES, **settings)


def row(make: Callable[[Tensor], pv.VAE], **settings: Any) -> Row:
    """Return a row by the default recipe."""
    return Row(make, lambda steps: pv.Step(pv.Optim.muon(steps), **settings), batch=500)


TABLE = Table(
    title="Priors, guides and objectives",
    text="""The VAE of Burda et al. (2016) with one layer, 784-200-200-50 with tanh, and the same
with another prior, guide or objective. Each row has the same 60,000 images, binarized anew at each
use, and the default recipe: Muon along a cosine from 0.03, Adam for all that is no weight of a
layer, batches of 500. The flows are affine autoregressive: three transforms for the prior, two of
width 320 for the guide. Differences from the first row are paired over the test images.""",
    rows={
        "standard normal, mean-field, ELBO": row(one_layer),
        "prior: 50 normals": row(with_prior(lambda: pv.priors.MixtureOfNormals(LATENTS, 50))),
        "prior: VampPrior of 500": row(vampprior),
        "prior: flow": row(with_prior(lambda: pv.priors.Flow(LATENTS, kind="affine"))),
        "guide: low-rank, 5": row(with_guide(low_rank)),
        "guide: flow": row(with_guide(flow_guide)),
        "objective: IWAE-5": row(one_layer, loss=IWAE(5)),
        "objective: IWAE-5, DReG": row(one_layer, loss=IWAE(5, gradient="dreg")),
        "objective: IWAE-5, STL": row(one_layer, loss=IWAE(5, gradient="stl")),
    },
    data=binary_mnist,
    steps=40_000,
    paired=True,
)
