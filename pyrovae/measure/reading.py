"""Read the log-weights of each site and the closed-form KLs from each pass of an evaluation.

Bounds, rates and closed-form KLs come from the same particles. A quantity other than the bounds
may fail. It is then left out, the reason is recorded, and the bounds are kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from pyrovae.measure.progress import concatenated
from pyrovae.randomness import generators_kept, random_state, restore_random_state
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
from pyrovae.weights.sites import (
    is_auxiliary_draw,
    is_deterministic,
    is_point_mass,
    sample_sites,
)
from pyrovae.weights.traces import trace_guide

__all__ = [
    "ReadAll",
    "Reading",
    "by_dimension",
    "closed_form",
    "notes_of",
    "points_of",
    "read_passes",
    "reason",
]

CLOSED_FORM: Final = "KL, closed form"
BY_DIMENSION: Final = "KL per dimension"
CLOSED: Final = frozenset({CLOSED_FORM, BY_DIMENSION})

KL_PARTICLES: Final = 10
"""The number of particles for closed-form KLs of programs that run on K N rows.

Such programs see particles and data as one axis, which hides the families of their distributions,
so they are run again with one particle at a time.
"""


class Reading(NamedTuple):
    """The quantities read from each pass.

    Attributes:
        terms: the log-weights by site.
        rates: the sum of the closed-form KLs; empty if it has none.
        by_dimension: the closed-form KL of each dimension, by site; empty if it has none.
        entries: the number of entries of x that are scored.
    """

    terms: Terms
    rates: dict[str, Tensor]
    by_dimension: dict[str, Any]
    entries: dict[str, Any]


class ReadAll:
    """Read the terms of a pair of traces, and its closed-form KLs if it has them.

    Attributes:
        left_out: the reason for each quantity that failed, by name.
        on_rows: whether the programs ran on K N rows, which hides the families.
    """

    def __init__(self, left_out: dict[str, str]) -> None:
        self.left_out, self.on_rows = left_out, False
        self._reads: dict[frozenset[str], Read] = {}

    @property
    def read(self) -> Read:
        """The function that reads a pass. It is the same object until another quantity fails."""
        skipped = frozenset(CLOSED & self.left_out.keys())
        return self._reads.setdefault(skipped, functools.partial(self._read, skipped=skipped))

    def skip(self, error: Exception) -> bool:
        """Leave out all closed forms, as any may have failed; return False if none is left."""
        rest = CLOSED - self.left_out.keys()
        self.left_out |= dict.fromkeys(rest, reason(error))
        return bool(rest)

    def beside(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the result of `make`; if it fails, record the reason and return None."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 (any failure: the bounds are kept)
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
        read = reads.read
        try:
            found: Reading = over_passes(given, particles, runner=runner, read=read)
        except Exception as error:
            # If the closed form that failed is known, it is left out already.
            if reads.read is read and not reads.skip(error):
                raise
            restore_random_state(before)
        else:
            return found


def closed_form(given: Given, reading: Reading, read: ReadAll) -> Estimate | None:
    """Return the closed-form KL, [N]; None if it has none."""
    if "all" in reading.rates:
        return mean_estimate(reading.rates["all"])
    rates = read.beside(CLOSED_FORM, lambda: _apart(given, read, closed_form_rates))
    return None if rates is None else mean_estimate(torch.cat(rates, 1))


def by_dimension(given: Given, reading: Reading, read: ReadAll) -> dict[str, Tensor]:
    """Return the closed-form KL of each dimension, [N, D], by site; empty if it has none."""
    if reading.by_dimension:
        return reading.by_dimension
    rates = read.beside(BY_DIMENSION, lambda: _apart(given, read, dimension_rates))
    return concatenated(rates) if rates else {}


def _apart(given: Given, read: ReadAll, rates: Callable[..., Any]) -> list[Any] | None:
    """Compute closed-form KLs from separate particles, for programs that ran on K N rows."""
    if not read.on_rows or read.left_out.keys() & CLOSED:
        return None
    with contextlib.suppress(ValueError):
        return [
            rates(given.pair, *part, particles=KL_PARTICLES) for part in given.passes(KL_PARTICLES)
        ]
    return None


def reason(error: Exception) -> str:
    """Return in one line why a quantity was left out."""
    if isinstance(error, ValueError):
        return str(error)
    return f"it failed ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"


def points_of(given: Given) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sites at which the guide is a Delta, and those with one value of probability one.

    Deltas that transform an auxiliary draw are left out. The second are none if other sites are
    random, since particles differ then.
    """
    _, guide = given.pair
    with generators_kept():
        trace = trace_guide(guide, *given, particles=2)
    sites = dict(sample_sites(trace))
    certain = tuple(name for name, site in sites.items() if is_deterministic(site["fn"]))
    certain = certain if len(certain) == len(sites) else ()
    points = tuple(name for name, site in sites.items() if is_point_mass(site))
    if any(is_auxiliary_draw(site) for site in sites.values()):
        points = tuple(name for name in points if not _varies(sites[name]))
    return points, certain


def notes_of(certain: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the bounds if the guide gives values probability one."""
    if not certain:
        return ()
    return (
        f"The guide gives one value of {', '.join(certain)} probability one. Every bound is "
        "log p(x | z) + log p(z) there: it is below log p(x), has no error over particles, and "
        "is not tightened by more particles.",
    )


def _varies(site: Any) -> bool:
    """Return whether two particles differ at a site."""
    one, other = site["value"].unbind(site["value"].ndim - 2 - site["fn"].event_dim)
    return not torch.equal(one, other)
