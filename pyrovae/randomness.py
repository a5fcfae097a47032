"""Seed a block of code and restore torch's generators after it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

__all__ = [
    "STEPS",
    "Steps",
    "Streams",
    "derived",
    "generators_kept",
    "python_draws",
    "seeded",
    "state_of",
]


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block with its own seed, then restore torch's generators.

    With None, the block uses the generators in their current state.

    Example:
        >>> import torch
        >>> from pyrovae import seeded
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
    """Restore the generators of the CPU, and of every GPU in use, after the block."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


def random_state() -> list[torch.Tensor]:
    """Return the states of torch's generators: that of the CPU, then of every GPU in use."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *gpus]


def restore_random_state(state: list[torch.Tensor]) -> None:
    """Put torch's generators back to a state."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def state_of(source: Any) -> Any:
    """Return the state of a torch, numpy or Python generator as a value that supports `==`."""
    if isinstance(source, torch.Generator):
        return source.get_state().tolist()
    if isinstance(source, np.random.Generator):
        return repr(source.bit_generator.state)
    if isinstance(source, np.random.RandomState):
        state: Any = source.get_state(legacy=False)
        return {**state["state"], "key": state["state"]["key"].tobytes()}, state["gauss"]
    return hash(source.getstate())


def python_draws() -> Any:
    """Return the states of Python's and numpy's random generators."""
    return random.getstate(), state_of(np.random.mtrand._rand)


STEPS: Final = "_pyrovae_steps"
"""The attribute under which a target stores its `Steps`."""


@dataclass(frozen=True)
class Steps:
    """The seed of a target's training, and the number of steps taken with it.

    Attributes:
        seed: the seed of the first call of `fit`; None if that call used the global generators.
        taken: the number of steps so far.

    Example:
        >>> Steps(7, 0).next_seed, Steps(7, 100).next_seed == Steps(7, 200).next_seed
        (7, False)
    """

    seed: int | None = 0
    taken: int = 0

    @property
    def next_seed(self) -> int | None:
        """The seed itself before the first step, later one derived from the seed and the steps."""
        if self.seed is None or not self.taken:
            return self.seed
        return derived(self.seed, self.taken)


def derived(*words: int) -> int:
    """Return a seed that is determined by integers, and unlike that of any others."""
    sequence = np.random.SeedSequence([word % 2**64 for word in words])
    return int(sequence.generate_state(1, np.uint64)[0])


class Streams:
    """Give each of successive parts of a work its own random numbers.

    The first part goes on from torch's generator, and the others are seeded by its state and
    their number: what a part draws does not depend on whether earlier ones were run here.

    Example:
        >>> with seeded(0):
        ...     streams = Streams()
        ...     with streams.of(1):
        ...         draw = torch.rand(())
        >>> with seeded(0), Streams().of(1):
        ...     assert draw == torch.rand(())
    """

    def __init__(self) -> None:
        with generators_kept():
            self._base = int(torch.randint(2**63 - 1, ()))

    def of(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Seed a block for the part of a number, from 0."""
        return seeded(derived(self._base, number) if number else None)
