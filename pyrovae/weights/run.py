"""Run both programs once on K particles of N data, and evaluate a function of their traces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Protocol

from torch import Tensor

from pyrovae.graphs.rare_constants import load_rare_constants
from pyrovae.types import ContextValue, Program
from pyrovae.weights.auxiliary import check_transform
from pyrovae.weights.pair import TracePair
from pyrovae.weights.sites import check_plates, sample_sites
from pyrovae.weights.traces import trace_guide

load_rare_constants()

__all__ = ["LOG_W", "TERMS", "Read", "Runner", "run"]

Read = Callable[[TracePair], Any]
"""A function of a `TracePair` that returns a tree of tensors."""

LOG_W: Final[Read] = attrgetter("log_w")
"""Read the log-weights [K, N]."""

TERMS: Final[Read] = attrgetter("terms")
"""Read the terms of the log-weights by site."""


class Runner(Protocol):
    """A function that runs a pass: `run`, or a `CompiledRun`."""

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        *context: ContextValue,
        particles: int,
        read: Read = TERMS,
    ) -> Any:
        """Run both programs once on all of x and return `read(pair)`."""


def run(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    read: Read = TERMS,
) -> Any:
    """Run both programs once on all of x and return `read(pair)`.

    Args:
        model: a Pyro program of (x, *context).
        guide: a Pyro program of the same arguments.
        x: data [N, ...].
        *context: further arguments.
        particles: K.
        read: a function of the `TracePair`; by default it returns the `Terms`.

    Raises:
        ValueError: as `log_weights`.
    """
    pair = TracePair.run(model, guide, x, *context, particles=particles)
    again = functools.partial(trace_guide, guide, x, *context, particles=1)
    check_transform(pair.model, pair.guide, lambda given: again(given=given))
    for name, site in sample_sites(pair.model):
        check_plates(name, site, len(x))
    return read(pair)
