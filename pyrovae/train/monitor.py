"""What training shows beside its objective: the ELBO on data and noise that stay the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from pyrovae.data.batches import Batch, Batches
from pyrovae.randomness import seeded
from pyrovae.types import Target
from pyrovae.weights.log_weights import log_weight_terms
from pyrovae.weights.target import buffers_kept, evaluation_mode, programs

DATA: Final = 2000
"""How many training data the ELBO at an epoch's end is measured on, or a few more in batches."""

BATCH: Final = 500


@dataclass(frozen=True)
class Monitor:
    """The true ELBO, rate and distortion at one draw, on the first training data and others.

    Attributes:
        train: the training data in their own order.
        validation: the data held out, if there are any.
        seed: of the draws.
    """

    train: Batches
    validation: Batches | None
    seed: int | None

    @torch.no_grad()
    def measure(self, target: Target) -> dict[str, float]:
        """Return the three numbers by their names, in nats; NaN where there is no validation."""
        found: dict[str, float] = {}
        for prefix, batches in (("", _first(self.train)), ("validation_", self.validation)):
            seed = 0 if self.seed is None else self.seed
            with buffers_kept(target), evaluation_mode(target), seeded(seed):
                measured = _elbo_rate_distortion(target, batches)
            names = ("elbo", "rate", "distortion")
            found |= {
                f"{prefix}{name}": value for name, value in zip(names, measured, strict=True)
            }
        return found


def _first(batches: Batches) -> Iterator[Batch]:
    """Yield the batches that hold the first data, as many as are monitored."""
    met = 0
    for batch in batches:
        yield batch
        met += len(batch[0])
        if met >= DATA:
            return


def _elbo_rate_distortion(target: Target, batches: Any) -> list[float]:
    if batches is None:
        return [math.nan] * 3
    model, guide = programs(target)
    rates, log_likelihoods = [], []
    for x, *context in batches:
        terms = log_weight_terms((model, guide), x, *context, particles=1)
        rates.append(terms.rate)
        log_likelihoods.append(terms.log_likelihood)
    rate = torch.cat(rates, dim=1).cpu().double().mean().item()
    log_likelihood = torch.cat(log_likelihoods, dim=1).cpu().double().mean().item()
    return [log_likelihood - rate, rate, -log_likelihood]
