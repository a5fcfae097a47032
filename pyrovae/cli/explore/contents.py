"""What the data of a view are: images, rows of a table, counts, sequences or vectors.

A datum is sent as numbers; a row of a table also as words, in the units of its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor
from torch.distributions import constraints

from pyrovae.cli.figures import is_image
from pyrovae.data.table import Table

__all__ = ["Contents", "Kind"]

Kind = Literal["image", "table", "counts", "sequence", "vector"]

DOMAINS: Final = {
    "binary": constraints.boolean,
    "unit": constraints.unit_interval,
    "counts": constraints.nonnegative_integer,
    "real": constraints.real,
}

COLORED: Final = 60
"""The largest number of columns by which the map can be colored."""


@dataclass(frozen=True)
class Contents:
    """How data are shown.

    Attributes:
        shape: (channels, height, width) of an image, (D,) of a row, (T, C) of a sequence.
        domain: the domain of x; None if it is not known.
        range: the values of x that are drawn black and white.
        columns: the names of the columns; () if they have none.
        table: the schema of mixed columns; None if x is no table of these.

    Example:
        >>> Contents((1, 28, 28), constraints.boolean).kind
        'image'
        >>> Contents((200,), constraints.nonnegative_integer).kind
        'counts'
    """

    shape: tuple[int, ...]
    domain: constraints.Constraint | None = None
    range: tuple[float, float] = (0.0, 1.0)
    columns: tuple[str, ...] = ()
    table: Table | None = None

    @property
    def kind(self) -> Kind:
        """How a datum is drawn."""
        if is_image(self.shape):
            return "image"
        if self.table is not None:
            return "table"
        if self.domain is constraints.nonnegative_integer:
            return "counts"
        if len(self.shape) > 1:
            return "sequence"
        return "table" if self.columns else "vector"

    @property
    def said(self) -> dict[str, Any]:
        """The contents as a JSON value."""
        known = (name for name, domain in DOMAINS.items() if domain is self.domain)
        names = self.columns or [column.name for column in getattr(self.table, "columns", ())]
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "columns": list(names) or None,
            "domain": next(known, "unknown"),
            "range": list(self.range),
        }

    def words(self, x: Tensor, mask: Tensor | None = None) -> list[list[str]] | None:
        """Return rows [N, D] in the words and units of their columns; None if x is no table.

        Args:
            x: codes of a table's columns, [N, D].
            mask: whether each entry is observed, [N, D]; those that are not are "missing".
        """
        if self.table is None:
            return None
        # The table's own decoding would need a frame library, which a page does not.
        codes = x.detach().double().cpu().numpy()
        each = [
            [_word(value) for value in _decoded(column, codes[:, i])]
            for i, column in enumerate(self.table.columns)
        ]
        rows = [list(row) for row in zip(*each, strict=True)]
        if mask is not None:
            for row, seen in zip(rows, mask.tolist(), strict=True):
                row[:] = [
                    word if there else "missing" for word, there in zip(row, seen, strict=True)
                ]
        return rows

    def colors(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """Return the columns by which the map can be colored, by name."""
        if self.kind != "table" or x.shape[1] > COLORED:
            return {}
        names, words = self.said["columns"], self.words(x, mask)
        found: dict[str, Any] = {}
        for i, name in enumerate(names):
            if words is None:
                found[name] = numbers(x[:, i].tolist())
            elif self.table is not None and self.table.columns[i].levels:
                found[name] = categories([row[i] for row in words])
            else:
                found[name] = numbers([_number(row[i]) for row in words])
        return found


def numbers(values: Sequence[float]) -> dict[str, Any]:
    """Return numbers by which points are colored; NaN is sent as null."""
    return {"kind": "number", "values": list(values), "names": None}


def categories(words: Sequence[str]) -> dict[str, Any]:
    """Return categories by which points are colored, in order of their names."""
    names = sorted(set(words), key=lambda word: (word == "missing", word))
    place = {name: i for i, name in enumerate(names)}
    return {"kind": "category", "values": [place[word] for word in words], "names": names}


def _decoded(column: Any, codes: Any) -> list[Any]:
    """Return the values of codes; a mean of levels is rounded to one of them."""
    if column.kind == "count":
        return list(codes.tolist())
    if column.kind != "numeric":
        codes = codes.round().clip(0, len(column.levels) - 1)
    return list(column.decode(codes))


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")
