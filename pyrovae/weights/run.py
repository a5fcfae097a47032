"""Run both programs once on K particles of N data, and read something off the pair of traces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Protocol

from torch import Tensor

from pyrovae.types import ContextValue, Program
from pyrovae.weights.auxiliary import check_transform
from pyrovae.weights.pair import TracePair
from pyrovae.weights.sites import check_plates, sample_sites
from pyrovae.weights.traces import trace_guide

__all__ = ["LOG_W", "TERMS", "Read", "Runner", "run"]

Read = Callable[[TracePair], Any]
"""What is read off a pair of traces: tensors, in dictionaries, lists or a dataclass of them."""

LOG_W: Final[Read] = attrgetter("log_w")
TERMS: Final[Read] = attrgetter("terms")


class Runner(Protocol):
    """What runs a pass: `run`, or a `CompiledRun`."""

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        *context: ContextValue,
        particles: int,
        read: Read = TERMS,
    ) -> Any:
        """Run both programs once on all of x."""


def run(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    read: Read = TERMS,
) -> Any:
    """Run both programs once on all of x and return what is read off their traces.

    Args:
        model: a Pyro program of (x, *context).
        guide: a Pyro program of the same arguments.
        x: data [N, ...].
        *context: further arguments.
        particles: K.
        read: a function of the `TracePair`; by default its `Terms`.

    Raises:
        ValueError: as `log_weights`.
    """
    pair = TracePair.run(model, guide, x, *context, particles=particles)
    again = functools.partial(trace_guide, guide, x, *context, particles=1)
    check_transform(pair.model, pair.guide, lambda given: again(given=given))
    for name, site in sample_sites(pair.model):
        check_plates(name, site, len(x))
    return read(pair)
