"""Collect the results of batches that the processes of torch.distributed work on in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pyrovae.data.batches import Batches
from pyrovae.data.ranks import InTurns, Ranks
from pyrovae.measure.progress import Collected, collect
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["Met", "collect_in_turns"]

Batch = TypeVar("Batch")
Piece = TypeVar("Piece")


def collect_in_turns(
    work: Callable[[Batch], Piece], batches: Any, description: str
) -> Collected[Piece]:
    """Apply a function to batches in turns, and return all results to every process.

    Each process of the group has to call this (see `pyrovae.data.ranks.alone`). The numbers do
    not depend on the number of processes. Arguments and errors are as of `collect`.

    Example:
        >>> collect_in_turns(lambda n: n * n, [1, 2, 3], "squaring").pieces
        [1, 4, 9]
    """
    turns = InTurns(work)
    found = collect(turns, batches, description)
    partial = any(Ranks.present().gathered(found.partial))
    return Collected(turns.joined(found.pieces), partial, found.seconds)


@dataclass(frozen=True)
class Met:
    """The data of batches, with the number of data before each.

    Attributes:
        batches: the batches.
        resolved: the target.
        kept: the list that they are added to; None to forget them.
    """

    batches: Batches
    resolved: Resolved
    kept: list[Given] | None

    def __iter__(self) -> Iterator[tuple[int, Given]]:
        """Iterate over the data once."""
        before = 0
        for batch in self.batches:
            given = self.resolved.given(*batch)
            if self.kept is not None:
                self.kept.append(given)
            yield before, given
            before += len(given)

    def __length_hint__(self) -> Any:
        """Return the number of batches, if it is known."""
        return NotImplemented if self.batches.number is None else self.batches.number
