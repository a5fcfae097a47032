"""Measure the ELBO at the end of each epoch, on fixed data and noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.ranks import InTurns
from pyrovae.randomness import seeded
from pyrovae.types import Target
from pyrovae.weights.log_weights import log_weight_terms
from pyrovae.weights.target import buffers_kept, evaluation_mode, programs

__all__ = ["BATCH", "DATA", "Monitor"]

DATA: Final = 2000
"""The number of training data that are measured, rounded up to whole batches."""

BATCH: Final = 500
"""The size of these batches."""


@dataclass(frozen=True)
class Monitor:
    """Measure the ELBO, rate and distortion with one particle.

    Attributes:
        train: the training data in their own order, of which the first are measured.
        validation: the validation data; None if there are none.
        seed: the seed of the noise; None is 0.
    """

    train: Batches
    validation: Batches | None
    seed: int | None

    @torch.no_grad()
    def measure(self, target: Target) -> dict[str, float]:
        """Return the means over data by name, in nats; NaN without validation data."""
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
    """Yield the first batches, up to `DATA` data."""
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

    def measured(batch: Batch) -> tuple[Tensor, Tensor]:
        x, *context = batch
        terms = log_weight_terms((model, guide), x, *context, particles=1)
        return terms.rate.cpu(), terms.log_likelihood.cpu()

    work = InTurns(measured)
    both = zip(*work.joined([work(batch) for batch in batches]), strict=True)
    rate, log_likelihood = (torch.cat(values, dim=1).double().mean().item() for values in both)
    return [log_likelihood - rate, rate, -log_likelihood]
