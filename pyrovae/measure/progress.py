"""Process batches one by one with a progress bar, and keep the finished ones if interrupted."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import track

from pyrovae.weights.bounds import Estimate

__all__ = ["Collected", "collect", "concatenated"]

Batch = TypeVar("Batch")
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Collected(Generic[Piece]):
    """The results of `collect`.

    Attributes:
        pieces: the result of each finished batch.
        partial: whether an interrupt came before the last batch finished.
        seconds: the elapsed time.
    """

    pieces: list[Piece]
    partial: bool
    seconds: float


def collect(work: Callable[[Batch], Piece], batches: Any, description: str) -> Collected[Piece]:
    """Apply a function to each batch, and keep the finished batches if interrupted.

    A progress bar is shown if the standard error is a terminal.

    Args:
        work: the function.
        batches: an iterable of batches.
        description: the text of the progress bar.

    Raises:
        KeyboardInterrupt: if the interrupt comes before the first batch finishes.

    Example:
        >>> collect(lambda n: n * n, [1, 2, 3], "squaring").pieces
        [1, 4, 9]
    """
    pieces: list[Piece] = []
    started, partial = time.perf_counter(), False
    total = operator.length_hint(batches, -1)  # a stream may not know its length
    try:
        for batch in track(
            batches,
            description,
            total=None if total < 0 else total,
            console=Console(stderr=True, force_jupyter=False),
            transient=True,
            disable=not sys.stderr.isatty(),
        ):
            pieces.append(work(batch))
    except KeyboardInterrupt:
        if not pieces:
            raise
        partial = len(pieces) != total
    return Collected(pieces, partial, time.perf_counter() - started)


def concatenated(pieces: Sequence[Any], dim: int = 0) -> Any:
    """Concatenate the results of batches: tensors, estimates, and dictionaries of these.

    A result that is None for any batch is None. An entry that any dictionary lacks is left out.

    Example:
        >>> concatenated([{"a": torch.zeros(2), "b": None}, {"a": torch.ones(1), "b": None}])
        {'a': tensor([0., 0., 1.]), 'b': None}
    """
    first = pieces[0]
    if isinstance(first, dict):
        common = [key for key in first if all(key in piece for piece in pieces)]
        return {key: concatenated([piece[key] for piece in pieces], dim) for key in common}
    if any(piece is None for piece in pieces):
        return None
    if isinstance(first, Estimate):
        return Estimate(**concatenated([vars(piece) for piece in pieces], dim))
    return torch.cat(list(pieces), dim)
