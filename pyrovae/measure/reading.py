"""What an evaluation reads off each pass: the log-weights by site, and closed forms beside them.

Bounds, rates and closed-form KLs come from the same particles. Whatever stands beside the bounds
may fail: it is then left out with the reason, and the bounds are kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from pyrovae.measure.findings import concatenated
from pyrovae.randomness import random_state, restore_random_state
from pyrovae.weights.bounds import Estimate, mean_estimate
from pyrovae.weights.given import Given
from pyrovae.weights.kl import (
    closed_form_rates,
    dimension_rates,
    on_rows,
    pair_kl,
    pair_kl_by_dimension,
)
from pyrovae.weights.observed import entries
from pyrovae.weights.pair import Terms, TracePair
from pyrovae.weights.passes import Averaged, over_passes
from pyrovae.weights.run import Read, Runner

__all__ = ["ReadAll", "Reading", "by_dimension", "closed_form", "read_passes", "reason"]

CLOSED_FORM: Final = "KL, closed form"
BY_DIMENSION: Final = "KL per dimension"

KL_PARTICLES: Final = 10
"""The particles at which programs that are shown K N rows are run one by one for their KLs."""


class Reading(NamedTuple):
    """What is read off each pass.

    Attributes:
        terms: the log-weights by site.
        rates: the sum of closed-form KLs, where it is known.
        by_dimension: each site's KL by dimension, where it is known.
        entries: of x that are scored.
    """

    terms: Terms
    rates: dict[str, Tensor]
    by_dimension: dict[str, Any]
    entries: dict[str, Any]


class ReadAll:
    """Read the terms of a pair of traces and, where they are known, its closed-form KLs.

    Attributes:
        left_out: what could not be had, by name, and why.
        on_rows: whether the programs were shown K N rows, whose families are hidden.
    """

    def __init__(self, left_out: dict[str, str]) -> None:
        self.left_out, self.on_rows = left_out, False
        self._skipped: set[str] = set()
        self._reads: dict[frozenset[str], Read] = {}

    @property
    def read(self) -> Read:
        """What is read off a pass: the same function as long as nothing else has failed."""
        skipped = frozenset(self._skipped)
        return self._reads.setdefault(skipped, functools.partial(self._read, skipped=skipped))

    def skip(self, error: Exception) -> bool:
        """Leave out, after a failure, what may have caused it; False if nothing is left to."""
        rest = {CLOSED_FORM, BY_DIMENSION} - self._skipped
        for name in rest if not rest & self.left_out.keys() else rest & self.left_out.keys():
            self._skipped.add(name)
            self.left_out.setdefault(name, reason(error))
        return bool(rest)

    def beside(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what stands beside the bounds; None, and the reason kept, if it fails."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 (whatever it is, the bounds are there)
            self.left_out.setdefault(name, reason(error))
            return None

    def _read(self, pair: TracePair, *, skipped: frozenset[str]) -> Reading:
        self.on_rows = on_rows(pair)
        rates: dict[str, Tensor] = {}
        by_dimension: dict[str, Tensor] = {}
        if CLOSED_FORM not in skipped:
            with contextlib.suppress(ValueError), self._blamed(CLOSED_FORM):
                rates = {"all": pair_kl(pair)}
        if BY_DIMENSION not in skipped:
            with self._blamed(BY_DIMENSION):
                by_dimension = pair_kl_by_dimension(pair)
        counts = entries(pair.observed.values(), pair.layout.shape[1])
        averaged = {name: Averaged(value) for name, value in by_dimension.items()}
        return Reading(pair.terms, rates, averaged, {"all": Averaged(counts)})

    @contextlib.contextmanager
    def _blamed(self, name: str) -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise
        except Exception as error:
            self.left_out.setdefault(name, reason(error))
            raise


def read_passes(given: Given, particles: int, runner: Runner, reads: ReadAll) -> Reading:
    """Run all passes of a batch; if a closed form fails, run them again without it.

    Raises:
        ValueError: as `log_weights`.
    """
    before = random_state()
    while True:
        try:
            found: Reading = over_passes(given, particles, runner=runner, read=reads.read)
        except Exception as error:
            if not reads.skip(error):
                raise
            restore_random_state(before)
        else:
            return found


def closed_form(given: Given, reading: Reading, read: ReadAll) -> Estimate | None:
    """Return the closed-form KL, [N]; None where it is not known."""
    if "all" in reading.rates:
        return mean_estimate(reading.rates["all"])
    rates = read.beside(CLOSED_FORM, lambda: _apart(given, read, closed_form_rates))
    return None if rates is None else mean_estimate(torch.cat(rates, 1))


def by_dimension(given: Given, reading: Reading, read: ReadAll) -> dict[str, Tensor]:
    """Return each site's KL by dimension, [N, D], where it is known."""
    if reading.by_dimension:
        return reading.by_dimension
    rates = read.beside(BY_DIMENSION, lambda: _apart(given, read, dimension_rates))
    found: dict[str, Tensor] = concatenated(rates) if rates else {}
    return found


def _apart(given: Given, read: ReadAll, rates: Callable[..., Any]) -> list[Any] | None:
    """Take closed-form KLs at particles of their own, for programs that were shown K N rows."""
    if not read.on_rows or read.left_out.keys() & {CLOSED_FORM, BY_DIMENSION}:
        return None
    with contextlib.suppress(ValueError):
        return [
            rates(given.programs, *part, particles=KL_PARTICLES)
            for part in given.passes(KL_PARTICLES)
        ]
    return None


def reason(error: Exception) -> str:
    """Say in one line why something was left out."""
    if isinstance(error, ValueError):
        return str(error)
    return f"it failed ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
