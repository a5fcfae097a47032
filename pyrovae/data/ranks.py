"""Share data and work among the processes of torch.distributed.

After `torch.distributed.init_process_group()`, the processes are numbered by their rank. A joint
batch is cut into one part for each, so that W processes with batches of B data take the same data
as one with batches of W B. Work on successive parts of data is dealt out in turns, with a stream
of random numbers for each part, and every process gets all results in order.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils.data.distributed import DistributedSampler

from pyrovae.randomness import Streams, seeded

__all__ = ["InTurns", "ProcessLost", "Ranks", "alone", "lost_explained"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_ALONE: Final[ContextVar[bool]] = ContextVar("pyrovae_alone", default=False)


class ProcessLost(RuntimeError):  # noqa: N818
    """Raised if another process of the group has ended, failed or does not answer."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Measure in this process alone, without the other processes of the group.

    `evaluate` and AIS share their work among all processes of the group, each of which has to
    call them. In this block, one process can call them by itself.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.data.ranks import alone
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> with alone():
        ...     report = pv.evaluate(vae, torch.zeros(5, 64), particles=10)
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the group.

    Attributes:
        rank: its number, from 0.
        world: the number of processes.

    Example:
        >>> import torch
        >>> from pyrovae.data.ranks import Ranks
        >>> [Ranks(rank, 2).rows(torch.arange(7), 2).tolist() for rank in (0, 1)]
        [[0, 1, 4, 5], [2, 3, 6]]
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def present(cls) -> Ranks:
        """Return this process; the only one, if there is no group or in a block of `alone`."""
        if _ALONE.get() or not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.world > 1

    def rows(self, order: Tensor, size: int) -> Tensor:
        """Return the rows of this process: of each joint batch, the part that it takes.

        Parts have `size` rows. Those of the last joint batch differ by one row at most.
        """
        whole = len(order) - len(order) % (size * self.world)
        full = order[:whole].view(-1, self.world, size)[:, self.rank].reshape(-1)
        return torch.cat([full, order[whole:].tensor_split(self.world)[self.rank]])

    def turns(self, batches: Iterator[Item], source: Any) -> Iterator[Item]:
        """Return every W-th batch of a stream whose order the processes share.

        Torch's generator is in the same state in all processes up to the first batch, in which
        samplers draw their order. A loader with a `DistributedSampler` keeps its own batches.
        """
        with seeded(self.agreed(int(torch.randint(2**63 - 1, ())))):
            first = list(itertools.islice(batches, 1))
        whole = itertools.chain(first, batches)
        if isinstance(getattr(source, "sampler", None), DistributedSampler):
            return whole
        return itertools.islice(whole, self.rank, None, self.world)

    def agreed(self, value: Item) -> Item:
        """Return the value of the process of rank 0."""
        values = [value]
        with lost_explained():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def overwrite(self, tensors: Iterable[Tensor]) -> None:
        """Write the values of the process of rank 0 into tensors."""
        with lost_explained(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                distributed.broadcast(whole, src=0)
                tensor.copy_(whole)

    def gathered(self, value: Item) -> list[Item]:
        """Return the values of all processes, by rank."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.world
        with lost_explained():
            distributed.all_gather_object(values, value)
        return values


class InTurns(Generic[Item, Result]):
    """Apply a function to successive items, of which each process takes every W-th.

    Each item has its own stream of random numbers: the first goes on from torch's generator, and
    the others are seeded by it and their number. So the results do not depend on the number of
    processes.

    Args:
        work: the function. It returns no None.

    Example:
        >>> squared = InTurns(lambda n: n * n)
        >>> squared.joined([squared(n) for n in (1, 2, 3)])
        [1, 4, 9]
    """

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work, self._number = work, 0
        self._ranks, self._streams = Ranks.present(), Streams()

    def __call__(self, item: Item) -> Result | None:
        """Return the result of an item; None if it is another process's turn."""
        number, self._number = self._number, self._number + 1
        if number % self._ranks.world != self._ranks.rank:
            return None
        with self._streams.of(number):
            return self._work(item)

    def joined(self, results: Sequence[Result | None]) -> list[Result]:
        """Return the results of all processes, in the order of their items."""
        several = self._ranks.gathered(results)
        rows = itertools.zip_longest(*several)
        found = (next((value for value in row if value is not None), None) for row in rows)
        return [value for value in found if value is not None]


@contextlib.contextmanager
def lost_explained() -> Iterator[None]:
    """Raise `ProcessLost` if a process does not answer in a collective operation."""
    try:
        yield
    except RuntimeError as error:
        ranks = Ranks.present()
        raise ProcessLost(
            f"process {ranks.rank} of {ranks.world} lost another one, which has ended, failed or "
            f"does not answer ({_reason(error)}): start them again, and resume from the last "
            "checkpoint"
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return the first sentence of an error, without the place in the code of the library."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[\S+:\d+\] ", "", lines[0]).split(". ")[0].rstrip(".")
