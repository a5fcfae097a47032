"""Seeds for a block of code: torch's generators are put back afterward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

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


STEPS: Final = "_pyrovae_steps"
"""The attribute of a target that has its `Steps`."""


@dataclass(frozen=True)
class Steps:
    """What a target's next training draws from: the seed of its run, and the steps gone by at it.

    Attributes:
        seed: of the run's first training; None where that drew from the generators as they stood.
        taken: the steps so far.

    Example:
        >>> Steps(7, 0).next_seed, Steps(7, 100).next_seed == Steps(7, 200).next_seed
        (7, False)
    """

    seed: int | None = 0
    taken: int = 0

    @property
    def next_seed(self) -> int | None:
        """The run's own seed at first, then one that follows from it and the steps gone by."""
        if self.seed is None or not self.taken:
            return self.seed
        words = np.random.SeedSequence([self.seed % 2**64, self.taken])
        return int(words.generate_state(1, np.uint64)[0])
