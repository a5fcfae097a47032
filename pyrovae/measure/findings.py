"""The result of a measurement: a table of numbers with their errors, and a verdict.

A `Finding` prints as text, and converts to JSON (means and errors) and to tensors (per-datum
values).
"""

from __future__ import annotations

import abc
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import rich.box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrovae.files import html
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate

__all__ = [
    "COLUMNS",
    "Diagnostic",
    "Finding",
    "NotMeasurable",
    "Number",
    "PARETO",
    "Quantity",
    "WIDTH",
    "counted",
    "error_of_share",
    "estimate_of",
    "estimates_of",
    "known",
    "or_zero",
    "printed",
    "without_error_over_data",
]

PARETO: Final = "Pareto k-hat"
"""The name of the Pareto shapes among the per-datum tensors."""

COLUMNS: Final = ("mean", "error_over_data", "error_over_particles")
"""The numbers of a quantity, in the order of the fields of `Number`."""

WIDTH = 72
"""The columns of a printed finding."""


class NotMeasurable(ValueError):  # noqa: N818
    """Raised if a quantity does not exist for these programs or data."""


@dataclass(frozen=True)
class Number:
    """A number that is not a mean over data, with its standard errors.

    Attributes:
        mean: the number.
        error_over_data: the standard error over test sets; NaN if it is not known.
        error_over_particles: the standard error over seeds; NaN if it is not known.
    """

    mean: float
    error_over_data: float = math.nan
    error_over_particles: float = math.nan


Quantity = Estimate | Number


class Finding(abc.ABC):
    """A table of quantities and a verdict.

    Attributes:
        findings: nested findings by name, printed below the table.
    """

    findings: Mapping[str, Finding] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """The number of data (as by `counted`), the settings, and the unit."""

    @property
    def subject(self) -> str:
        """The title without the unit, for figures whose axes have it."""
        return self.title

    @property
    @abc.abstractmethod
    def quantities(self) -> dict[str, Quantity]:
        """The lines of the table, by name."""

    @property
    def remarks(self) -> Sequence[str]:
        """Warnings that are printed above the table, one sentence each."""
        return ()

    @property
    @abc.abstractmethod
    def verdict(self) -> Sequence[str]:
        """The conclusions, one sentence each."""

    def beside(self, bound: Estimate, k: int, *, independent: bool) -> Sequence[str]:
        """Return sentences that compare this finding with an importance-weighted bound.

        Args:
            bound: IWAE-k of the same data, or of more.
            k: the number of particles of the bound.
            independent: whether the finding and the bound used independent random numbers.
        """
        return ()

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The per-datum tensors, without those of the estimates, by name."""
        return {}

    @property
    @abc.abstractmethod
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete."""

    def __str__(self) -> str:
        """Return the table and the verdict, 72 columns wide."""
        return printed(*self._paragraphs())

    def __repr__(self) -> str:
        """Return the type and the title in one line; print the finding for its table."""
        return f"{type(self).__name__}({self.title})"

    def _repr_html_(self) -> str:
        """Return the table and the verdict for a notebook."""
        parts = self._paragraphs()
        return html.block(
            *(_as_html(each) if isinstance(each, Table) else html.sentence(each) for each in parts)
        )

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
        """Return title, means, errors and verdict as JSON values.

        Numbers that are not finite are None; "infinite" has the sign of those that are infinite.
        """
        quantities = {name: _as_json(quantity) for name, quantity in self.quantities.items()}
        found = {
            "title": self.title,
            "subject": self.subject,
            "partial": self.partial,
            "quantities": quantities,
            "verdict": list(self.verdict),
        }
        if self.remarks:
            found["remarks"] = list(self.remarks)
        within = {name: finding.to_json() for name, finding in self.findings.items()}
        return {**found, "findings": within} if within else found

    def tensors(self) -> dict[str, Tensor]:
        """Return the per-datum tensors, the values and standard errors of estimates included."""
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
    """A further measurement for `evaluate`, called with the target and all the data.

    It may draw from torch's generator, which `evaluate` seeds before each diagnostic, and may use
    only the first data. It raises `NotMeasurable`, or another ValueError, if it does not apply.
    """

    @property
    def name(self) -> str:
        """The key of its finding in `Report.findings`, such as "ais"."""

    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> Finding:
        """Measure a VAE, or a pair (model, guide), on data [N, ...]."""


def counted(done: int, wanted: int | None, things: str = "data") -> str:
    """Return the number of things measured as text, marked as partial if fewer than wanted.

    Example:
        >>> counted(1000, 1000), counted(300, 1000)
        ('1,000 data', 'partial: 300 of 1,000 data')
    """
    if done == wanted:
        return f"{done:,} {things}"
    return f"partial: {done:,}" + (f" of {wanted:,}" if wanted else "") + f" {things}"


def without_error_over_data(data: int) -> list[str]:
    """Return a sentence saying that one datum has no error over data; empty for several data.

    Example:
        >>> without_error_over_data(1), without_error_over_data(2)
        (['One datum has no error over data. Measure several.'], [])
    """
    return ["One datum has no error over data. Measure several."] if data == 1 else []


def estimate_of(finding: Finding, name: str) -> Estimate:
    """Return a mean over data by its name in the table.

    Raises:
        NotMeasurable: if the finding has no mean over data of this name.
    """
    found = estimates_of(finding)
    if name not in found:
        raise NotMeasurable(
            f"'{finding.title}' has no mean over data named '{name}': choose one of {list(found)}"
        )
    return found[name]


def estimates_of(finding: Finding) -> dict[str, Estimate]:
    """Return the quantities that are means over data, by name."""
    found = finding.quantities.items()
    return {name: quantity for name, quantity in found if isinstance(quantity, Estimate)}


def error_of_share(hits: float, count: int) -> float:
    r"""Return Agresti and Coull's standard error of a share of independent cases.

    $$ \sqrt{\tilde p (1 - \tilde p) / (n + 4)},\qquad \tilde p = (h + 2) / (n + 4) $$

    Two cases are added on either side, so the error is positive for any share, also for 0 and 1.

    References:
        Agresti, Coull, 1998. Approximate Is Better than "Exact" for Interval Estimation of
            Binomial Proportions.

    Example:
        >>> round(error_of_share(0, 100), 3)
        0.013
    """
    middle = (hits + 2) / (count + 4)
    return math.sqrt(middle * (1 - middle) / (count + 4))


def printed(*parts: Any) -> str:
    """Return tables and sentences as plain text, 72 columns wide."""
    out = io.StringIO()
    console = Console(
        file=out, width=WIDTH, force_terminal=False, force_jupyter=False, color_system=None
    )
    for part in parts:
        console.print(part, highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def known(value: float) -> float | None:
    """Return the number if it is finite, else None, since JSON has no NaN or infinity."""
    return value if math.isfinite(value) else None


def or_zero(error: float) -> float:
    """Return an error, or 0 if it is NaN because it is not known."""
    return 0.0 if math.isnan(error) else error


def _as_json(quantity: Quantity) -> dict[str, Any]:
    numbers = {name: getattr(quantity, name) for name in COLUMNS}
    infinite = {name: str(value) for name, value in numbers.items() if math.isinf(value)}
    found: dict[str, Any] = {name: known(value) for name, value in numbers.items()}
    return found | {"infinite": infinite} if infinite else found


def _as_html(table: Table) -> str:
    columns = table.columns
    words = [i for i, column in enumerate(columns) if i and column.justify == "left"]
    rows = zip(*(map(str, column.cells) for column in columns), strict=True)
    heads = [str(column.header) for column in columns]
    return html.table(str(table.title), heads, list(rows), words=words)


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
