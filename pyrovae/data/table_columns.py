"""One column of a table: what kind of values it holds, and how they become floats and come back.

| kind | code x | decoded |
|---|---|---|
| numeric | (value - loc) / scale | scale * x + loc |
| count | the count | the nearest whole number from 0 |
| binary, ordinal, categorical | the index of the level | the level |
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch.distributions import constraints

if TYPE_CHECKING:
    import narwhals as nw

__all__ = ["Column", "Kind", "Level", "column_of", "declared", "dtype_of", "plain"]

Kind = Literal["numeric", "count", "binary", "ordinal", "categorical"]
Level = bool | int | float | str
Floats = NDArray[np.float64]

MOST_LEVELS: Final = 50
"""Strings with more distinct values than this are categories only if most of them recur."""

FEW: Final = 12
"""Whole numbers with at most so many distinct values may be classes; `print(table)` says so."""

_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The schema of one column, with the statistics of its observed values.

    Attributes:
        name: the column's name in the frame.
        kind: numeric, count, binary, ordinal or categorical.
        dtype: the name of the dtype in the frame, which decoding restores.
        levels: the values of a binary, ordinal or categorical column, in the order of their codes.
        frequencies: how often each level was observed.
        loc: the mean of a numeric column or a count.
        scale: the standard deviation of a numeric column or a count, 1 if it is constant.
        missing: the number of missing values.
        distinct: the number of distinct observed values.
    """

    name: str
    kind: Kind
    dtype: str
    levels: list[Level] = []
    frequencies: list[_Whole] = []
    loc: _Finite = 0.0
    scale: _Finite = 1.0
    missing: _Whole = 0
    distinct: _Whole = 0

    def __post_init__(self) -> None:
        """Check what the types alone do not.

        Raises:
            ValueError: naming the column.
        """
        classes = self.kind not in ("numeric", "count")
        if classes and not 2 <= len(self.levels) == len(set(self.levels)):
            raise ValueError(
                f"column {self.name!r} is {self.kind} and needs two or more distinct levels; got "
                f"{_shown(self.levels)}: leave it out with columns={{{self.name!r}: None}}"
            )
        if self.kind == "binary" and len(self.levels) != 2:
            raise ValueError(
                f"column {self.name!r} is binary and needs two levels; got {_shown(self.levels)}: "
                f"columns={{{self.name!r}: 'categorical'}}"
            )
        if len(self.frequencies) != len(self.levels) * classes or not self.scale > 0:
            raise ValueError(f"the statistics of column {self.name!r} do not fit its kind")

    @property
    def classes(self) -> int:
        """The number of levels of an ordinal or categorical column; 0 for numbers and binaries."""
        return len(self.levels) if self.kind in ("ordinal", "categorical") else 0

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of the codes."""
        simple = {
            "numeric": constraints.real,
            "count": constraints.nonnegative_integer,
            "binary": constraints.boolean,
        }
        levels = constraints.integer_interval(0, max(len(self.levels) - 1, 0))
        return simple.get(self.kind, levels)

    def measured(self, series: nw.Series[Any]) -> Column:
        """Return this column with the statistics of other values, unless all are missing.

        Raises:
            ValueError: as `encode`.
        """
        codes, seen = self.encode(series)
        observed = codes[seen]
        if not len(observed):
            return self
        facts: dict[str, Any] = {"missing": int((~seen).sum())}
        if self.levels:
            counts = np.bincount(observed.astype(int), minlength=len(self.levels))
            facts["frequencies"] = counts.tolist()
        else:
            values = _numbers(series)
            facts |= _moments(self.name, values[~np.isnan(values)])
        return msgspec.structs.replace(self, **facts, distinct=len(np.unique(observed)))

    def encode(self, series: nw.Series[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the codes [N], 0 where a value is missing, and the mask of observed values.

        Raises:
            ValueError: if a value is not of this column's kind, naming its row.
        """
        if self.kind in ("numeric", "count"):
            numbers = _numbers(series)
            seen = ~np.isnan(numbers)
            _check_numbers(self.name, self.kind, numbers)
            if self.kind == "numeric":
                numbers = (numbers - self.loc) / self.scale
            return np.where(seen, numbers, 0.0), seen
        place = {level: index for index, level in enumerate(self.levels)}
        values = plain(series)
        _check_plain(series, [value for value in values if value is not None])
        codes = [0 if value is None else place.get(value, -1) for value in values]
        if -1 in codes:
            row = codes.index(-1)
            raise ValueError(
                f"column {self.name!r} has {values[row]!r} at row {row}, which is none of its "
                f"levels {_shown(self.levels)}: make it missing, or make a table of data with it"
            )
        return np.array(codes, float), np.array([value is not None for value in values], bool)

    def decode(self, x: Floats) -> list[Any]:
        """Return the values of codes [N], any float; a code is rounded unless it is a number's.

        Raises:
            ValueError: if a code is not finite, or is no level's.
        """
        if not np.isfinite(x).all():
            raise ValueError(f"column {self.name!r} cannot be decoded from NaN or infinite codes")
        if self.kind == "numeric":
            return list((self.scale * x + self.loc).tolist())
        codes = np.rint(x.clip(-1, 2.0**62)).astype(np.int64)
        if self.kind == "count":
            return list(np.maximum(codes, 0).tolist())
        bad = (codes < 0) | (codes >= len(self.levels))
        if bad.any():
            raise ValueError(
                f"column {self.name!r} has levels 0 to {len(self.levels) - 1}; got the code "
                f"{x[bad][0]:g}"
            )
        return [self.levels[code] for code in codes]

    def quantiles(self, u: Floats) -> Floats:
        """Return codes with about the column's own distribution, at probabilities u in (0, 1)."""
        if self.kind == "numeric":
            from scipy.special import ndtri

            return np.asarray(ndtri(u))
        if self.kind == "count":
            return np.floor(self.loc + u)
        share = np.cumsum(self.frequencies) / max(sum(self.frequencies), 1)
        return np.searchsorted(share, u).clip(0, len(self.levels) - 1).astype(float)

    def in_words(self) -> tuple[str, str]:
        """Return a summary of the values, and a note on what the kind leaves open."""
        if self.kind in ("numeric", "count"):
            note = "" if self.distinct != 1 else "one value: it tells nothing, leave it out"
            if self.kind == "count" and 1 < self.distinct <= FEW:
                note = f"{self.distinct} distinct values: 'ordinal' or 'categorical' if classes"
            return f"mean {self.loc:.4g}, sd {self.scale:.4g}", note
        between = " < " if self.kind == "ordinal" else ", "
        pairs = zip(self.levels, self.frequencies, strict=True)
        named = [f"{level} ({count})" for level, count in pairs]
        more = [f"{len(named) - 4} more"] if len(named) > 5 else []
        return between.join([*named[: 4 if more else 5], *more]), ""


def column_of(series: nw.Series[Any], wanted: Kind | Sequence[Level] | None = None) -> Column:
    """Return the schema of a series.

    Args:
        series: the values.
        wanted: the kind, or the levels of an ordinal column in order; None for the kind that the
            rules of `Table.of` give.

    Raises:
        ValueError: if the kind cannot be told, or does not fit the values.
    """
    name, levels, values = series.name, declared(series), plain(series)
    observed = [value for value in values if value is not None]
    _check_plain(series, [*observed, *(levels or ())])
    counted = Counter(observed)
    if not observed:
        raise ValueError(
            f"column {name!r} has no observed value: leave it out with columns={{{name!r}: None}}"
        )
    kind: Any = wanted
    if isinstance(wanted, list | tuple):
        kind, levels = "ordinal", list(wanted)
    if wanted is None:
        kind = _kind(series, counted, levels)
    facts: dict[str, Any] = {"name": name, "kind": kind, "dtype": dtype_of(series)}
    facts |= {"missing": len(values) - len(observed), "distinct": len(counted)}
    if kind in ("numeric", "count"):
        numbers = _numbers(series)
        _check_numbers(name, kind, numbers)
        return Column(**facts, **_moments(name, numbers[~np.isnan(numbers)]))
    if kind not in get_args(Kind):
        raise ValueError(
            f"column {name!r} cannot be {kind!r}: choose one of {', '.join(get_args(Kind))}, a "
            "list of its levels in order, or None to leave it out"
        )
    levels = _sorted(name, kind, counted) if levels is None else levels
    unknown = next((value for value in observed if value not in set(levels)), None)
    if unknown is not None:
        raise ValueError(
            f"column {name!r} has {unknown!r} at row {values.index(unknown)}, which is none of "
            f"the levels {_shown(levels)}: add it, or make it missing"
        )
    return Column(**facts, levels=levels, frequencies=[counted[level] for level in levels])


def _kind(series: nw.Series[Any], counted: Counter[Any], levels: list[Level] | None) -> Kind:
    """Return the kind of a series by the rules of `Table.of`."""
    import narwhals as nw

    dtype, types = series.dtype, {type(value) for value in counted}
    if isinstance(dtype, nw.Enum) or _is_ordered(series):
        return "ordinal"
    if types == {bool}:
        return "binary"
    categories = isinstance(dtype, nw.Categorical)
    if types <= {int, float} and not categories:
        whole = all(float(value).is_integer() for value in counted)
        if whole and len(counted) == 2:
            return "binary"
        return "count" if whole and min(counted) >= 0 else "numeric"
    if types != {str} and not categories:
        raise _of_no_kind(series, types)
    distinct, number = len(levels or counted), sum(counted.values())
    if not categories and MOST_LEVELS < distinct and number < 2 * distinct:
        raise ValueError(
            f"column {series.name!r} has {distinct} distinct strings in {number} rows: leave it "
            f"out with columns={{{series.name!r}: None}}, or keep it with 'categorical'"
        )
    return "binary" if distinct == 2 else "categorical"


def _check_plain(series: nw.Series[Any], values: Sequence[Any]) -> None:
    """Check that values, and the categories of a dtype, are booleans, numbers or strings."""
    other = {type(value) for value in values} - {bool, int, float, str}
    if other:
        raise _of_no_kind(series, other)


def _of_no_kind(series: nw.Series[Any], types: set[type]) -> ValueError:
    told = " and ".join(sorted(kind.__name__ for kind in types))
    return ValueError(
        f"column {series.name!r} holds {told} ({type(series.dtype).__name__}), which is no kind "
        f"of column: convert it to numbers or strings, or leave it out with "
        f"columns={{{series.name!r}: None}}"
    )


def declared(series: nw.Series[Any]) -> list[Any] | None:
    """Return the categories that the dtype declares: those of pandas, and ordered ones."""
    import narwhals as nw

    if isinstance(series.dtype, nw.Enum):
        return list(series.dtype.categories)
    if _is_ordered(series):
        unified = series.to_native().unify_dictionaries()
        return list(unified.chunk(0).dictionary.to_pylist())
    if isinstance(series.dtype, nw.Categorical) and series.implementation.is_pandas_like():
        return list(series.to_native().cat.categories.tolist())
    return [False, True] if series.dtype == nw.Boolean else None


def dtype_of(series: nw.Series[Any]) -> str:
    """Return the name of a dtype: pandas has several of one kind, others one."""
    if not series.implementation.is_pandas():
        return type(series.dtype).__name__ + (", ordered" if _is_ordered(series) else "")
    own = series.to_native().dtype
    return f"{own}, ordered" if getattr(own, "ordered", None) is True else str(own)


def _is_ordered(series: nw.Series[Any]) -> bool:
    """Return whether a series is an ordered dictionary of Arrow, as Parquet files keep them."""
    import narwhals as nw

    if not (series.implementation.is_pyarrow() and isinstance(series.dtype, nw.Categorical)):
        return False
    return bool(series.to_native().type.ordered)


def plain(series: nw.Series[Any]) -> list[Any]:
    """Return the values as Python's own, None where one is missing; NaN is missing too."""
    values = [
        None if null or value != value else value
        for null, value in zip(series.is_null().to_list(), series.to_list(), strict=True)
    ]
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _numbers(series: nw.Series[Any]) -> Floats:
    """Return the values as floats, NaN where one is missing."""
    array = series.to_numpy() if series.dtype.is_numeric() else np.empty(0, object)
    if array.dtype.kind in "fiu":
        return array.astype(float)
    values = plain(series)
    for row, value in enumerate(values):
        if not isinstance(value, bool | int | float | None):
            raise ValueError(
                f"column {series.name!r} takes numbers; got {value!r} at row {row} "
                f"({series.dtype}): convert the column to numbers"
            )
    return np.array([math.nan if value is None else value for value in values], float)


def _check_numbers(name: str, kind: Kind, values: Floats) -> None:
    """Check that observed numbers are finite, and counts whole and not negative."""
    seen = ~np.isnan(values)
    bad, wanted = seen & ~np.isfinite(values), "finite numbers"
    if kind == "count" and not bad.any():
        bad, wanted = seen & ((values < 0) | (values % 1 != 0)), "counts 0, 1, 2, ..."
    if bad.any():
        row = int(bad.nonzero()[0][0])
        remedy = "make it missing" if wanted == "finite numbers" else "make the column numeric"
        raise ValueError(
            f"column {name!r} takes {wanted}; got {values[row]:g} at row {row}: {remedy}"
        )


def _moments(name: str, values: Floats) -> dict[str, Any]:
    """Return the mean and the standard deviation, 1 in place of 0."""
    if values.min() == values.max():  # Their deviation may be a rounding error instead of 0.
        return {"loc": float(values[0]), "scale": 1.0}
    with np.errstate(over="ignore", invalid="ignore"):
        loc, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(loc) and math.isfinite(scale)):
        raise ValueError(
            f"column {name!r} has values up to {np.abs(values).max():g}, too large to "
            "standardize: rescale them"
        )
    return {"loc": loc, "scale": scale or 1.0}


def _sorted(name: str, kind: Kind, counted: Counter[Any]) -> list[Any]:
    """Return the observed values in order, as levels."""
    if kind == "ordinal" and any(isinstance(value, str) for value in counted):
        raise ValueError(
            f"column {name!r} is ordinal, but strings have no order of their own: give its levels "
            f"from low to high, columns={{{name!r}: {sorted(map(str, counted))[:5]}}}"
        )
    try:
        return sorted(counted)
    except TypeError as error:
        raise ValueError(
            f"column {name!r} holds values of several types: convert them to strings"
        ) from error


def _shown(levels: Sequence[Any]) -> str:
    more = [f"... ({len(levels)} in all)"] if len(levels) > 6 else []
    return ", ".join([*(repr(level) for level in levels[:6]), *more]) or "none"
