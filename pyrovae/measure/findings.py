"""What a measurement returns: a table of numbers with their errors, and what follows in words.

A `Finding` prints, and writes itself as JSON for the means and as tensors for what there is per
datum. `collect` does long work batch by batch: it shows progress, and an interrupt keeps the
batches that are done.
"""

from __future__ import annotations

import abc
import io
import math
import operator
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import rich.box
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate

Batch = TypeVar("Batch")
Piece = TypeVar("Piece")

WIDTH = 72


@dataclass(frozen=True)
class Number:
    """A number that is no mean over data, with the errors that are known of it.

    Attributes:
        mean: the number.
        error_over_data: how another test set would differ; NaN where it is not known.
        error_over_particles: how another seed would; NaN where it is not known.
    """

    mean: float
    error_over_data: float = math.nan
    error_over_particles: float = math.nan


Quantity = Estimate | Number


class Finding(abc.ABC):
    """A table of quantities, and what follows from them in words.

    Attributes:
        findings: what was found within it, by name: printed below its own table.
    """

    findings: Mapping[str, Finding] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What was measured, on how many data (as by `counted`), in which unit."""

    @property
    @abc.abstractmethod
    def quantities(self) -> dict[str, Quantity]:
        """The lines of the table by their names."""

    @property
    def remarks(self) -> Sequence[str]:
        """What is to be known before the numbers are read: printed above the table."""
        return ()

    @property
    @abc.abstractmethod
    def verdict(self) -> Sequence[str]:
        """What follows, a sentence each."""

    def beside(self, bound: Estimate, k: int, *, independent: bool) -> Sequence[str]:
        """Compare what was found with IWAE-k of the same data, or more, a sentence each.

        Args:
            bound: the bound of each datum.
            k: its particles.
            independent: whether both have random numbers of their own.
        """
        return ()

    @property
    @abc.abstractmethod
    def per_datum(self) -> dict[str, Tensor]:
        """What there is for each datum, beside the values of the estimates."""

    @property
    @abc.abstractmethod
    def partial(self) -> bool:
        """Whether an interrupt left something out."""

    def __str__(self) -> str:
        """Return the table and the verdict, 72 columns wide."""
        return printed(*self._paragraphs())

    def __repr__(self) -> str:
        """Return what was measured in one line, not every datum: print it for the table."""
        return f"{type(self).__name__}({self.title})"

    def table(self) -> Table:
        """Return the table of the quantities."""
        table = Table(box=rich.box.SIMPLE_HEAD, title=self.title, pad_edge=False)
        table.add_column("")
        for column in ("mean", "± over data", "± over particles"):
            table.add_column(column, justify="right")
        for name, quantity in self.quantities.items():
            errors = (quantity.error_over_data, quantity.error_over_particles)
            table.add_row(name, _shown(quantity.mean), *map(_shown, errors))
        return table

    def to_json(self) -> dict[str, Any]:
        """Return means and errors as plain numbers, and the verdict; what is not known is None."""
        quantities = {
            name: {
                "mean": known(quantity.mean),
                "error_over_data": known(quantity.error_over_data),
                "error_over_particles": known(quantity.error_over_particles),
            }
            for name, quantity in self.quantities.items()
        }
        found = {
            "title": self.title,
            "partial": self.partial,
            "quantities": quantities,
            "verdict": list(self.verdict),
        }
        if self.remarks:
            found["remarks"] = list(self.remarks)
        within = {name: finding.to_json() for name, finding in self.findings.items()}
        return {**found, "findings": within} if within else found

    def tensors(self) -> dict[str, Tensor]:
        """Return what there is for each datum, each estimate's standard errors with it."""
        found = dict(self.per_datum)
        for name, quantity in self.quantities.items():
            if isinstance(quantity, Estimate):
                found[name] = quantity.value
                found[f"{name}, standard error"] = quantity.standard_error
        for name, finding in self.findings.items():
            found |= {f"{name}/{key}": tensor for key, tensor in finding.tensors().items()}
        return found

    def _paragraphs(self) -> Iterator[Any]:
        yield from self.remarks
        yield self.table()
        yield from self.verdict
        for finding in self.findings.values():
            yield from finding._paragraphs()


class Diagnostic(Protocol):
    """A measurement that `evaluate` makes beside its own: called with the VAE and all the data.

    It draws from torch's generator, which `evaluate` seeds anew for each, and cuts the data to
    what it needs.
    """

    @property
    def name(self) -> str:
        """The key of what it finds, such as "ais"."""

    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> Finding:
        """Measure a VAE, or a pair (model, guide), on data [N, ...]."""


@dataclass(frozen=True)
class Collected(Generic[Piece]):
    """What became of the batches of some long work.

    Attributes:
        pieces: one for each batch that was finished.
        partial: whether an interrupt came before the last batch was done.
        seconds: what it took.
    """

    pieces: list[Piece]
    partial: bool
    seconds: float


def collect(work: Callable[[Batch], Piece], batches: Any, description: str) -> Collected[Piece]:
    """Apply work to each batch with a bar on a terminal; an interrupt keeps what is done.

    Raises:
        KeyboardInterrupt: if the interrupt comes before the first batch is done.

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


def counted(done: int, wanted: int | None, things: str = "data") -> str:
    """Say how many were measured, and that it is partial where an interrupt left some out.

    Example:
        >>> counted(1000, 1000), counted(300, 1000)
        ('1,000 data', 'partial: 300 of 1,000 data')
    """
    if done == wanted:
        return f"{done:,} {things}"
    return f"partial: {done:,}" + (f" of {wanted:,}" if wanted else "") + f" {things}"


def without_error_over_data(data: int) -> list[str]:
    """Say of one datum that it has no error over data, which its table leaves open.

    Example:
        >>> without_error_over_data(1), without_error_over_data(2)
        (['One datum tells no error over data: another may lie far off.'], [])
    """
    return ["One datum tells no error over data: another may lie far off."] if data == 1 else []


def estimate_of(finding: Finding, name: str) -> Estimate:
    """Return a mean over data by its name in the table.

    Raises:
        ValueError: if the finding has none of this name.
    """
    quantity = finding.quantities.get(name)
    if isinstance(quantity, Estimate):
        return quantity
    known = [key for key, value in finding.quantities.items() if isinstance(value, Estimate)]
    raise ValueError(f"'{finding.title}' has no mean over data '{name}'; it has {known}")


def join(estimates: Sequence[Estimate]) -> Estimate:
    """Put the estimates of successive data one after the other."""
    return Estimate(
        torch.cat([estimate.value for estimate in estimates]),
        torch.cat([estimate.standard_error for estimate in estimates]),
    )


def printed(*parts: Any) -> str:
    """Return tables and sentences as text, 72 columns wide, without color."""
    out = io.StringIO()
    console = Console(
        file=out, width=WIDTH, force_terminal=False, force_jupyter=False, color_system=None
    )
    for part in parts:
        console.print(part, highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def known(value: float) -> float | None:
    """Return a number that JSON can hold; None where it is not known."""
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def concatenated(values: list[Any]) -> Any:
    """Concatenate per-batch results; None if any batch has none."""
    first = values[0]
    if isinstance(first, dict):
        common = [key for key in first if all(key in value for value in values)]
        return {key: concatenated([value[key] for value in values]) for key in common}
    if any(value is None for value in values):
        return None
    return torch.cat(values) if isinstance(first, Tensor) else join(values)
