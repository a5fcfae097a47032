"""A representation [N, L] beside the factors [N, F] that its data were made of.

Both may be tensors, arrays or frames. Factors are coded 0, 1, ... by their distinct values, so a
measurement depends on which rows share a value, not on what the value is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Codes",
    "Pairs",
    "Units",
    "columns_of",
    "factors_of",
    "sized",
    "units_of",
    "values_of",
]

Units = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The units and the factors of the same N data.

    Attributes:
        units: the names of the L units.
        factors: the names of the F factors.
        z: the representation, [N, L] in float64.
        v: the factors, [N, F], each coded 0, 1, ..., K_f - 1.

    Example:
        >>> import numpy as np
        >>> from pyrovae.measure.disentanglement.pairs import Pairs
        >>> pairs = Pairs.of(np.eye(4)[:, :2], [["red"], ["blue"], ["red"], ["red"]])
        >>> pairs.units, pairs.factors, pairs.v.T.tolist(), pairs.sizes
        (('z[0]', 'z[1]'), ('factor 0',), [[1, 0, 1, 1]], (2,))
    """

    units: tuple[str, ...]
    factors: tuple[str, ...]
    z: Units
    v: Codes

    @classmethod
    def of(
        cls,
        representation: Any,
        factors: Any,
        *,
        names: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
    ) -> Pairs:
        """Check a representation and factors, and code the factors.

        Args:
            representation: numbers [N, L], or [N] for one unit: a tensor, an array or a frame.
            factors: values from finite sets, [N, F] or [N]: whole numbers, booleans or words, as
                a tensor, an array, a frame or a mapping of names to columns.
            names: the names of the factors; by default a frame's own, or "factor 0", ...
            units: the names of the units; by default a frame's own, or "z[0]", ...

        Raises:
            ValueError: if the two differ in length, there are fewer than two data or more units
                than data, a value is missing or infinite, a factor has a single value or holds
                numbers that are not whole, or names do not fit.
        """
        unit_names, z = units_of(representation, units)
        factor_names, v = factors_of(factors, names)
        if len(z) != len(v):
            raise ValueError(
                f"the representation has {len(z):,} rows and the factors have {len(v):,}: give "
                "both of the same data, in the same order"
            )
        if z.shape[1] > len(z):
            raise ValueError(
                f"the representation has more units than data, {z.shape[1]:,} and {len(z):,}: "
                "give it as [N data, L units], of more data"
            )
        for name, size in zip(factor_names, v.max(0) + 1, strict=True):
            if size > len(v) / 2 and len(v) > 4:
                raise ValueError(
                    f"the factor {name!r} has {size:,} values in {len(v):,} data, so it is nearly "
                    "an identifier: leave it out, or give fewer values, two data or more for each"
                )
        return cls(unit_names, factor_names, z, v)

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.z)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each factor."""
        return tuple(int(size) + 1 for size in self.v.max(0))

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Whether each unit takes more than one value, [L]."""
        return np.asarray(self.z.max(0) > self.z.min(0))

    @property
    def standardized(self) -> Units:
        """The units with the mean 0 and the standard deviation 1, [N, L]; constant ones as 0.

        Predictors of scikit-learn round to single precision, so units of small scale or large
        offset would be lost to them. Squares of huge units would overflow.

        Example:
            >>> import numpy as np
            >>> from pyrovae.measure.disentanglement.pairs import Pairs
            >>> z = np.array([[1e-200, 5.0], [3e-200, 5.0]])
            >>> Pairs.of(z, [0, 1]).standardized.tolist()
            [[-1.0, 0.0], [1.0, 0.0]]
        """
        z = self.z / _positive(np.abs(self.z).max(0))
        z = z - z[0]
        z = z / _positive(np.abs(z).max(0))
        z = z - z.mean(0)
        return np.asarray(z / _positive(np.where(self.varies, z.std(0), 0.0)))

    def varied(self) -> Self:
        """Return the same data without the factors that have a single value in them."""
        kept = np.flatnonzero(self.v.max(0) > self.v.min(0))
        names = tuple(self.factors[k] for k in kept)
        return replace(self, factors=names, v=self.v[:, kept])

    def take(self, rows: Any) -> Self:
        """Return the data at some rows."""
        return replace(self, z=self.z[rows], v=self.v[rows])

    def limited(self, limit: int | None, generator: np.random.Generator) -> Self:
        """Return `limit` rows at random, or all if there are no more, or for None.

        Raises:
            ValueError: if the limit is not a whole number of at least 2, or leaves a factor with a
                single value.
        """
        if limit is None:
            return self
        if not isinstance(limit, Integral) or limit < 2:
            raise ValueError(f"limit must be a whole number of 2 or more, or None; got {limit!r}")
        if limit >= len(self):
            return self
        found = self.take(generator.permutation(len(self))[:limit])
        single = found.v.max(0) == found.v.min(0)
        if single.any():
            name = self.factors[int(single.argmax())]
            raise ValueError(
                f"the factor {name!r} has a single value in the {limit:,} data that were drawn: "
                "raise limit, or leave the factor out"
            )
        return found


def _positive(scale: Units) -> Units:
    """Return what to divide by: 1 where a scale is 0."""
    return np.where(scale > 0, scale, 1.0)


def sized(data: int, units: Sequence[str], factors: Sequence[str]) -> str:
    """Return the numbers of data, units and factors as text, leaving out factors if none.

    Example:
        >>> sized(1000, ["z[0]", "z[1]"], ["hue"])
        '1,000 data, 2 units, 1 factor'
    """
    counts = {"unit": len(units), "factor": len(factors)}
    words = [f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items() if n]
    return ", ".join([f"{data:,} data", *words])


def units_of(representation: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], Units]:
    """Return the names [L] and the finite numbers [N, L] of a representation.

    Raises:
        ValueError: as `Pairs.of`.
    """
    own, columns = columns_of(representation, "the representation")
    for name, column in zip(own or map(str, range(len(columns))), columns, strict=True):
        if column.dtype.kind not in "fiub":
            raise ValueError(
                f"the representation must be numeric; got {column.dtype} in its column {name}"
            )
    z = np.stack([column.astype(np.float64) for column in columns], axis=1)
    found = _named(own, names, [f"z[{i}]" for i in range(z.shape[1])], "units")
    if len(z) < 2:
        raise ValueError(f"units and factors are compared over data; got {len(z)}: pass several")
    broken = ~np.isfinite(z)
    if broken.any():
        row, unit = (int(i) for i in np.argwhere(broken)[0])
        raise ValueError(
            f"the representation has {broken.sum():,} missing or infinite numbers, the first in "
            f"row {row}, {found[unit]}: leave these rows out, or train again"
        )
    return found, z


def factors_of(factors: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], Codes]:
    """Return the names [F] and the codes [N, F] of factors.

    Raises:
        ValueError: as `Pairs.of`.
    """
    own, columns = columns_of(factors, "the factors")
    found = _named(own, names, [f"factor {i}" for i in range(len(columns))], "factors")
    coded = [_coded(column, name)[1] for column, name in zip(columns, found, strict=True)]
    return found, np.stack(coded, axis=1)


def values_of(factors: Any) -> list[list[str]]:
    """Return the distinct values of each factor as text, in the order of their codes.

    Raises:
        ValueError: as `Pairs.of`.

    Example:
        >>> values_of({"hue": ["red", "blue", "red"], "size": [1.0, 2.0, 3.0]})
        [['blue', 'red'], ['1', '2', '3']]
    """
    _, columns = columns_of(factors, "the factors")
    distinct = [_coded(column, str(i))[0] for i, column in enumerate(columns)]
    return [
        [f"{value:.6g}" if values.dtype.kind == "f" else str(value) for value in values.tolist()]
        for values in distinct
    ]


def columns_of(table: Any, what: str) -> tuple[tuple[str, ...] | None, list[NDArray[Any]]]:
    """Return the columns of a tensor, an array, a frame or a mapping, and the names it gives.

    Raises:
        ValueError: if it is not [N] or [N, C], or has no columns.
    """
    names = getattr(table, "column_names", None)  # pyarrow's columns have no names
    names = getattr(table, "columns", None) if names is None else names
    names = list(table) if isinstance(table, Mapping) else names
    if names is not None:
        columns = [np.asarray(table[name]) for name in names]
        own: tuple[str, ...] | None = tuple(map(str, names))
    else:
        values = _array(table) if isinstance(table, Tensor) else np.asarray(table)
        if values.ndim not in (1, 2):
            raise ValueError(
                f"{what} must have one row for each datum, [N, C] or [N]; got {values.shape}"
            )
        name = getattr(table, "name", None)  # of a series
        own = (str(name),) if isinstance(name, str) and values.ndim == 1 else None
        columns = list(values.reshape(len(values), -1).T) if values.size else []
    if not columns or not len(columns[0]):
        raise ValueError(f"{what} must have rows and columns; got none")
    return own, columns


def _array(table: Tensor) -> NDArray[Any]:
    """Return a tensor as an array; bfloat16, which NumPy lacks, as float32."""
    kept = table.detach().cpu()
    return np.asarray((kept.float() if kept.dtype == torch.bfloat16 else kept).numpy())


def _named(
    own: tuple[str, ...] | None, given: Sequence[str] | None, default: list[str], what: str
) -> tuple[str, ...]:
    names = tuple(given if given is not None else own or default)
    if len(names) != len(default) or len({*names}) != len(names):
        raise ValueError(
            f"there are {len(default)} {what}, each with a name of its own; got {list(names)}"
        )
    return names


def _coded(values: NDArray[Any], name: str) -> tuple[NDArray[Any], Codes]:
    """Return the distinct values of a factor in their order, and their numbers [N]."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"the factor {name!r} has missing values: leave these rows out")
        if (values != np.round(values)).any():
            raise ValueError(
                f"the factor {name!r} has numbers that are not whole, such as "
                f"{values[values != np.round(values)][0]:.4g}: make them whole numbers, the index "
                "of each value in its finite set; divide a continuous factor into bins"
            )
    elif values.dtype.kind == "O":
        if any(map(_missing, values)):
            raise ValueError(f"the factor {name!r} has missing values: leave these rows out")
        values = values.astype(str)
    elif values.dtype.kind not in "iubUT":
        raise ValueError(
            f"the factor {name!r} must hold whole numbers or words; got {values.dtype}"
        )
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(
            f"the factor {name!r} has a single value, so it has no entropy: leave it out"
        )
    return distinct, codes.astype(np.int64)


def _missing(value: Any) -> bool:
    """Return whether a cell is empty: None, NaN, or what pandas writes for either."""
    nan = isinstance(value, float) and math.isnan(value)
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")
