"""Data x with a context, whose arguments are either per datum or shared by all data.

The distinction is made once, on the whole data. Batches that are cut from the data keep it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.randomness import seeded
from pyrovae.weights.pair import TracePair
from pyrovae.weights.run import LOG_W, run
from pyrovae.weights.traces import Program

__all__ = ["NUMBERS_PER_PASS", "Given"]

NUMBERS_PER_PASS: Final = 2**22
"""The default size of a pass, in numbers of x for each pair of particle and datum: 16 MiB."""

LEAST_WIDTH: Final = 256
"""The least size of a row of x in that count, since networks have layers about as wide."""


@dataclass(frozen=True)
class Given:
    """Data x with the further arguments of the programs.

    A tensor with N rows in the context is per datum, unless test runs of the two programs on a
    few data show that all data share it.

    Attributes:
        x: data [N, ...].
        context: further arguments of the programs.
        programs: the model and the guide for the test runs; None to decide by the rows alone.
        settled: the value of `per_datum`, if it is known.

    Example:
        >>> label, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0])
        >>> given = Given(torch.zeros(3, 1), (scale, label))
        >>> [tuple(map(len, part)) for part in given.cut(2)]
        [(2, 2, 2), (1, 2, 1)]
        >>> given.bound(lambda x, scale, label: scale * label)(torch.zeros(2, 1), label[1:])
        tensor([20., 60.])
    """

    x: Tensor
    context: tuple[Any, ...] = ()
    programs: tuple[Program, Program] | None = None
    settled: tuple[bool, ...] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield x, then the context: the arguments of a program."""
        return iter((self.x, *self.context))

    def __len__(self) -> int:
        """Return the number of data N."""
        return len(self.x)

    @cached_property
    def per_datum(self) -> tuple[bool, ...]:
        """For each argument of the context, whether it has one row per datum."""
        if self.settled is not None:
            return self.settled
        rows = self.x.shape[:1]
        own = [isinstance(value, Tensor) and value.shape[:1] == rows for value in self.context]
        if self.programs is not None and any(own) and len(self) > 1:
            own = _rows_of_their_own(self.programs, self.x, self.context, own)
        return tuple(own)

    @property
    def pair(self) -> tuple[Program, Program]:
        """The model and the guide.

        Raises:
            ValueError: if the data have no programs.
        """
        if self.programs is None:
            raise ValueError(
                "data without programs cannot be run: create them with "
                "Given(x, context, (model, guide))"
            )
        return self.programs

    @property
    def own(self) -> tuple[Tensor, ...]:
        """The arguments of the context that have one row per datum."""
        both = zip(self.context, self.per_datum, strict=True)
        return tuple(value for value, own in both if own)

    def mapped(self, change: Callable[[Tensor], Tensor], *, context_alone: bool = False) -> Given:
        """Apply a function to x and to the context arguments that have one row per datum.

        With `context_alone`, x is left unchanged.
        """
        both = zip(self.context, self.per_datum, strict=True)
        context = tuple(change(value) if own else value for value, own in both)
        x = self.x if context_alone else change(self.x)
        return replace(self, x=x, context=context, settled=self.per_datum)

    def rows(self, rows: slice | Tensor) -> Given:
        """Return the data at some rows."""
        return self.mapped(lambda value: value[rows])

    def first(self, number: int | None) -> Given:
        """Return the first `number` data, or all for None."""
        return self if number is None or number >= len(self) else self.rows(slice(number))

    def cut(self, size: int) -> Iterator[Given]:
        """Yield the data in batches of at most `size` rows."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    @property
    def pairs_per_pass(self) -> int:
        """The default number of pairs (particle, datum) in one pass."""
        return max(1, NUMBERS_PER_PASS // max(LEAST_WIDTH, self.x[:1].numel()))

    def per_pass(self, particles: int) -> int:
        """Return the default number of data in one pass at K particles."""
        return max(1, self.pairs_per_pass // particles)

    def passes(self, particles: int) -> Iterator[Given]:
        """Yield the data in batches of `per_pass(particles)` rows."""
        return self.cut(self.per_pass(particles))

    def trace(self, particles: int, *, enumerate: bool = True) -> TracePair:
        """Run the programs once on all data and return their traces.

        Raises:
            ValueError: if there are no programs, and as `trace_pair`.
        """
        return TracePair.run(*self.pair, *self, particles=particles, enumerate=enumerate)

    def whole(self, own: Sequence[Tensor]) -> list[Any]:
        """Return a whole context, with `own` as its arguments that have one row per datum."""
        rest = iter(own)
        both = zip(self.context, self.per_datum, strict=True)
        return [next(rest) if mine else value for value, mine in both]

    def bound(self, program: Program) -> Program:
        """Return a program of x and the per-datum context, with the shared arguments bound."""
        if all(self.per_datum):
            return program
        return lambda x, *own, **named: program(x, *self.whole(own), **named)

    def unshared(self, programs: tuple[Program, Program] | None = None) -> Given:
        """Return x with the per-datum context only: the arguments of `bound` programs."""
        return Given(self.x, self.own, programs, settled=(True,) * len(self.own))


def _rows_of_their_own(
    pair: tuple[Program, Program], x: Tensor, context: tuple[Any, ...], own: list[bool]
) -> list[bool]:
    """Return which tensors with N rows are per datum, by test runs on one or two data.

    Each tensor is passed either cut to the rows of these data, or whole. A per-datum tensor that
    is passed whole makes a program fail. A shared tensor that is cut makes a program fail, or
    changes the log-weights. The data are the last one and the first: after a cut to their rows,
    each row of a table that the program indexes is in another place, from either end.
    """
    few = torch.tensor([len(x) - 1, 0])[: len(x) - 1].to(x.device)
    ways = [
        [mine and not whole for mine, whole in zip(own, choice, strict=True)]
        for choice in itertools.product(*[(False, True) if mine else (False,) for mine in own])
    ]
    found: list[tuple[list[bool], Tensor]] = []
    for way in ways:
        both = zip(context, way, strict=True)
        beside = [value[few.to(value.device)] if mine else value for value, mine in both]
        with contextlib.suppress(Exception), seeded(0), torch.no_grad(), poutine.block():
            found.append((way, run(*pair, x[few], *beside, particles=1, read=LOG_W)))
    if not found:
        return own
    _, shared = min(found, key=lambda pair: sum(pair[0]))
    same = [way for way, log_w in found if torch.allclose(log_w, shared, equal_nan=True)]
    return max(same, key=sum)
