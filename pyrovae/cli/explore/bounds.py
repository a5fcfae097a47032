r"""Bounds on log p(x) and their reliability, datum by datum, for the colors and lists of a view.

    IWAE-K = log 1/K sum_k w_k,   ELBO = 1/K sum_k log w_k,   KL = 1/K sum_k log q(z_k) / p(z_k)

They are computed in batches, each at its own seed: a page that asks for one batch after another
stays responsive, and any datum's numbers can be had again from its batch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.randomness import seeded
from pyrovae.weights import bounds, psis
from pyrovae.weights.given import Given
from pyrovae.weights.log_weights import log_weight_terms

__all__ = ["BATCH", "IWAE", "LISTED", "MEASURED", "PARTICLES", "lists", "measured"]

PARTICLES: Final = 100
"""K, the number of particles for each datum."""

BATCH: Final = 100
"""The data of one batch."""

LISTED: Final = 20
"""The length of the lists of data."""

IWAE: Final = f"log p(x), IWAE-{PARTICLES}"
MEASURED: Final = {"iwae": IWAE, "elbo": "ELBO", "kl": "KL of q(z | x) and p(z)", "khat": "k-hat"}
"""What is measured, with its name on the page."""


def measured(target: Any, given: Given, start: int) -> dict[str, Tensor]:
    """Return the bounds of the batch of data from row `start` on, [B] each, in nats.

    The seed of the draws is `start`, for torch's generator.

    Raises:
        ValueError: as `log_weights`.
    """
    rows = given.rows(slice(start, start + BATCH))
    with seeded(start):
        terms = log_weight_terms(target, *rows, particles=PARTICLES)
    log_w = terms.log_w
    return {
        "iwae": bounds.iwae(log_w),
        "elbo": bounds.elbo(log_w),
        "kl": terms.rate.mean(0),
        "khat": psis.pareto_k(log_w),
    }


def lists(values: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """Return the data of the lowest bound, and those whose weights are the least reliable.

    Data whose number is NaN are in no list. A datum is trusted least if its k-hat is above
    `psis.limit` and the highest; data within the limit are not listed.
    """
    iwae = torch.as_tensor(values["iwae"], dtype=torch.float64)
    khat = torch.as_tensor(values["khat"], dtype=torch.float64)
    known = (~iwae.isnan()).nonzero().flatten()
    bad = psis.beyond(khat, PARTICLES).nonzero().flatten()
    return {
        "least known": known[iwae[known].argsort(stable=True)][:LISTED].tolist(),
        "least trusted": bad[khat[bad].argsort(descending=True, stable=True)][:LISTED].tolist(),
    }
