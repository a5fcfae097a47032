"""The result of `assign`: a table of factors and the units that hold them, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import rich.box
from rich.table import Table
from torch import Tensor

from pyrovae.measure.disentanglement.pairs import sized
from pyrovae.measure.findings import Finding, Number, Quantity, known

__all__ = ["LOST", "SHARED", "Assignment", "listed"]

LOST: Final = 0.1
"""The share of a factor's entropy below which no unit holds it. The threshold is ours."""

SHARED: Final = 0.5
"""The part of the best unit's information from which another unit holds a factor, too; ours."""

MOST: Final = 5
"""The largest number of names in a sentence, and of sentences of one kind."""


@final
@dataclass(frozen=True, repr=False)
class Assignment(Finding):
    """Which unit of a representation holds which factor.

    Attributes:
        units: the names of the L units.
        factors: the names of the F factors.
        information: what each unit tells of each factor, in nats, [L, F]: 0 at chance level, at
            most the factor's entropy.
        error: its standard error over data, [L, F].
        entropy: the entropy of each factor in nats, [F].
        spread: the factors that no unit holds, but that all units together tell.
        data: the number of data N.
        bins: the least number of bins of a unit.
        together: pairs of factors that tell of each other, and how much, in nats.
    """

    units: tuple[str, ...]
    factors: tuple[str, ...]
    information: Tensor
    error: Tensor
    entropy: Tensor
    spread: tuple[str, ...]
    data: int
    bins: int
    together: tuple[tuple[str, str, float], ...] = ()

    @property
    def share(self) -> Tensor:
        """The information as a share of each factor's entropy, [L, F]."""
        return self.information / self.entropy

    @property
    def holders(self) -> dict[str, tuple[str, ...]]:
        """The units that hold each factor, the best first; none if it is lost or spread."""
        found = {}
        for name, share in zip(self.factors, self.share.T, strict=True):
            best = share.max()
            order = share.argsort(descending=True, stable=True).tolist()
            holding = [self.units[j] for j in order if share[j] >= SHARED * best]
            found[name] = tuple(holding) if best >= LOST else ()
        return found

    @property
    def contents(self) -> dict[str, tuple[str, ...]]:
        """The factors that each unit holds, by the unit's name, those of the largest share first.

        Units that hold none are left out.
        """
        holders, found = self.holders, {}
        for unit, share in zip(self.units, self.share, strict=True):
            order = share.argsort(descending=True, stable=True).tolist()
            names = [self.factors[k] for k in order if unit in holders[self.factors[k]]]
            if names:
                found[unit] = tuple(names)
        return found

    @property
    def held(self) -> dict[str, str]:
        """The factor that each unit holds, by the unit's name; that of the largest share."""
        return {unit: names[0] for unit, names in self.contents.items()}

    @property
    def labels(self) -> dict[str, str]:
        """All factors that each unit holds as text, such as "hue and size", by the unit's name."""
        return {unit: listed(names) for unit, names in self.contents.items()}

    @property
    def title(self) -> str:
        """The number of data, units and factors, and the unit."""
        return f"{sized(self.data, self.units, self.factors)}, nats"

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The information of the best unit about each factor, in nats, such as "hue in z[3]"."""
        best = self.information.argmax(0).tolist()
        return {
            f"{name} in {self.units[j]}": Number(
                self.information[j, k].item(), self.error[j, k].item()
            )
            for k, (name, j) in enumerate(zip(self.factors, best, strict=True))
        }

    def table(self) -> Table:
        """Return the table of the factors: entropy, best unit, and next unit."""
        table = Table(box=rich.box.SIMPLE_HEAD, title=self.title, pad_edge=False)
        for column in ("factor", "H", "unit", "nats", "±", "share", "next unit", "share"):
            words = column in ("factor", "unit", "next unit")
            table.add_column(column, justify="left" if words else "right")
        for row in self.rows():
            table.add_row(*row)
        return table

    def rows(self) -> list[list[str]]:
        """Return the cells of the table, a row for each factor."""
        found = []
        for k, name in enumerate(self.factors):
            nats, share = self.information[:, k], self.share[:, k]
            first, *others = share.argsort(descending=True, stable=True).tolist()
            best = [f"{nats[first]:.2f}", f"{self.error[first, k]:.2f}", f"{share[first]:.0%}"]
            cells = [self.units[first], *best] if share[first] > 0 else ["-", "0", "", "0%"]
            following = ["", ""]
            if others and share[others[0]] > 0:
                following = [self.units[others[0]], f"{share[others[0]]:.0%}"]
            found.append([name, f"{self.entropy[k]:.2f}", *cells, *following])
        return found

    @property
    def verdict(self) -> Sequence[str]:
        """Which factors are in one unit, shared, spread or lost; and which units hold several."""
        holders = self.holders
        alone = [name for name, units in holders.items() if len(units) == 1]
        several = {
            unit: names
            for unit in self.units
            if len(names := [name for name, units in holders.items() if unit in units]) > 1
        }
        one = len(self.factors) == 1 and not alone
        sentences = [] if one else [self._first(alone, mixed=bool(several))]
        shared = [
            f"{name} is shared by {listed(units)}."
            for name, units in holders.items()
            if len(units) > 1
        ]
        sentences += _first_of(shared, "factors are shared")
        held = [f"{unit} holds {listed(names)}." for unit, names in several.items()]
        sentences += _first_of(held, "units hold several factors")
        sentences += [
            f"{a} and {b} themselves share {nats:.2f} nats, so a unit of one tells of the other."
            for a, b, nats in self.together[:MOST]
        ]
        if self.spread:
            of, be = ("its", "is") if len(self.spread) == 1 else ("their", "are")
            sentences.append(
                f"{listed(self.spread)} {be} spread: no unit has {LOST:.0%} of {of} entropy, but "
                f"all units together tell {'it' if be == 'is' else 'them'}."
            )
        lost = [name for name, units in holders.items() if not units and name not in self.spread]
        if lost:
            sentences.append(f"Lost: {listed(lost)}.")
        return [" ".join(sentences)]

    def _first(self, alone: list[str], *, mixed: bool) -> str:
        if len(alone) == len(self.factors):
            if len(alone) == 1:
                return f"{alone[0]} is in one unit."
            if mixed:
                return f"Each of the {len(alone)} factors is in one unit, not each in its own."
            return f"Each of the {len(alone)} factors is in a unit of its own."
        counted = f"{len(alone)} of {len(self.factors)} factors"
        return f"{counted} {'is' if len(alone) == 1 else 'are'} in one unit each."

    @property
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete: always False."""
        return False

    def to_json(self) -> dict[str, Any]:
        """Return the assignment as JSON values, which `read_assignment` reads."""
        return {
            **super().to_json(),
            "units": list(self.units),
            "factors": list(self.factors),
            "information": _numbers(self.information),
            "error": _numbers(self.error),
            "entropy": self.entropy.tolist(),
            "spread": list(self.spread),
            "together": [list(each) for each in self.together],
            "held": self.held,
            "data": self.data,
            "bins": self.bins,
        }


def _numbers(matrix: Tensor) -> list[list[float | None]]:
    return [[known(value) for value in row] for row in matrix.tolist()]


def listed(names: Sequence[str]) -> str:
    """Return names as text, five at most.

    Example:
        >>> listed("abc"), listed("abcdefg")
        ('a, b and c', 'a, b, c, d, e and 2 more')
    """
    if len(names) > MOST + 1:
        return f"{', '.join(names[:MOST])} and {len(names) - MOST} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _first_of(sentences: Sequence[str], what: str) -> list[str]:
    """Return five sentences at most, and how many more there are."""
    more = len(sentences) - MOST
    return [*sentences] if more < 2 else [*sentences[:MOST], f"{more} more {what}."]
