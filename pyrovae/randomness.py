"""Seeds for a block of code: torch's generators are put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block at a seed of its own and put torch's generators back as they were.

    With None the block draws from the generators as they stand.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     assert torch.equal(first, torch.rand(1))
    """
    if seed is None:
        yield
        return
    with generators_kept():
        torch.random.manual_seed(seed)
        yield


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators of the CPU, and of every GPU in use, back after the block."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


def state_of(source: Any) -> Any:
    """Return the state of a generator of torch, numpy or Python, in a form that `==` compares."""
    if isinstance(source, torch.Generator):
        return source.get_state().tolist()
    if isinstance(source, np.random.Generator):
        return repr(source.bit_generator.state)
    if isinstance(source, np.random.RandomState):
        state: Any = source.get_state(legacy=False)
        return {**state["state"], "key": state["state"]["key"].tobytes()}, state["gauss"]
    return hash(source.getstate())
