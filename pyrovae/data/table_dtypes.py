"""Make a column of a frame from plain values, with the dtype that it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrovae.data.reading import extra

if TYPE_CHECKING:
    import narwhals as nw

__all__ = ["restored"]


def restored(
    name: str, values: Sequence[Any], *, dtype: str, levels: Sequence[Any], library: str
) -> nw.Series[Any]:
    """Return a series of a library with a dtype.

    Values of an integer dtype are rounded. The dtype is replaced by a wider one where it cannot
    hold them: 64 bits for integers outside its range, pandas' nullable dtypes for missing values.

    Args:
        name: the name of the series.
        values: Python's own values, None where one is missing.
        dtype: the name of the dtype in the library; "" for the one that the library gives such
            values.
        levels: the categories of a categorical dtype.
        library: the name of the library.
    """
    import narwhals as nw

    if "int" in dtype.lower():
        values = [None if value is None else round(value) for value in values]
        dtype = _wide_enough(dtype, values)
    elif any(number in dtype.lower() for number in ("float", "double")):
        values = [None if value is None else float(value) for value in values]
    if library == "pandas":
        return nw.from_native(_in_pandas(name, values, dtype, levels), series_only=True)
    if dtype == "Categorical, ordered":
        series = nw.from_native(_ordered_in_arrow(values, levels), series_only=True)
        return series.alias(name)
    kind: Any = nw.Enum(levels) if dtype == "Enum" else getattr(nw, dtype) if dtype else None
    return nw.new_series(name, values, kind, backend=cast(Any, library))


def _wide_enough(dtype: str, values: Sequence[int | None]) -> str:
    """Return the dtype of integers itself, or the one of 64 bits if it cannot hold the values."""
    number, bracket, rest = dtype.partition("[")
    limits = np.iinfo(number.lower())
    if all(value is None or limits.min <= value <= limits.max for value in values):
        return dtype
    return ("int64" if number.islower() else "Int64") + bracket + rest


def _ordered_in_arrow(values: Sequence[Any], levels: Sequence[Any]) -> Any:
    pyarrow = extra("pyarrow", "frames")
    place = {level: index for index, level in enumerate(levels)}
    codes = pyarrow.array([place.get(value) for value in values], pyarrow.int32())
    found = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(list(levels)), ordered=True)
    return pyarrow.chunked_array([found])


def _in_pandas(name: str, values: Sequence[Any], dtype: str, levels: Sequence[Any]) -> Any:
    import pandas

    kind: Any = dtype or None
    if dtype.startswith("category"):
        kind = pandas.CategoricalDtype(list(levels), ordered=dtype.endswith("ordered"))
    elif None in values and dtype == "bool":
        kind = "boolean"
    elif None in values and dtype.islower() and dtype.endswith(("8", "16", "32", "64")):
        kind = dtype.replace("int", "Int").replace("uI", "UI")
    return pandas.Series(list(values), name=name, dtype=kind)
