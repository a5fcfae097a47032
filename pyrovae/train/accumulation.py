"""Take the gradients of several batches for one step, as if they were one batch.

The gradient of the whole is the sum over the batches, if the loss of a batch is a sum over its
data. If the programs scale it to all N data, by a plate of size N, it is the mean over the
batches, weighted by their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.data.batches import Batch
from pyrovae.types import ContextValue, Program
from pyrovae.weights.traces import trace_pair

__all__ = ["averaged", "grouped", "rescale", "scaled_size"]


def grouped(batches: Iterable[Batch], number: int) -> Iterator[list[Batch]]:
    """Yield lists of so many successive batches; the last may be shorter.

    Example:
        >>> list(grouped([(1,), (2,), (3,)], 2))
        [[(1,), (2,)], [(3,)]]
    """
    left = iter(batches)
    while group := list(islice(left, number)):
        yield group


def scaled_size(model: Program, guide: Program, x: Tensor, *context: ContextValue) -> int:
    """Return the size of the plate that the programs scale the loss of a batch to.

    It is 0 if the loss is the sum over the data of the batch.
    """
    traces = trace_pair(model, guide, x, *context, particles=1)
    sites = [site for trace in traces for site in trace.nodes.values() if _is_subsample(site)]
    sizes = (site["fn"].size for site in sites if site["fn"].size > len(site["value"]))
    return max(sizes, default=0)


def _is_subsample(site: Any) -> bool:
    return site["type"] == "sample" and site_is_subsample(site)


@torch.no_grad()
def rescale(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply the gradients by a factor, in place of adding batches of another scale."""
    if factor != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad * factor


def averaged(losses: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the mean of the losses, weighted by the sizes of their batches."""
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
