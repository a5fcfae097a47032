"""Read tables from files: CSV, Parquet and Feather, as frames of narwhals.

narwhals gives one interface to the frames of pandas, polars and Arrow. Files are read by Arrow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyrovae.data.reading import Contents, NoColumn, Reading, extra
from pyrovae.data.table import Table

if TYPE_CHECKING:
    import narwhals as nw

__all__ = [
    "SUFFIXES",
    "index_columns",
    "numeric",
    "read",
    "read_frame",
    "without_index",
    "words_of",
]

SUFFIXES: Final = (".csv", ".parquet", ".feather")
"""The ends of the names of files that are read as a frame."""

LARGEST_PIECE: Final = 2**31 - 1
"""The bytes of a CSV file that Arrow reads at once, at most."""

UNNAMED: Final = re.compile("__index_level_[0-9]+__")
"""The names that pandas gives to an index without a name, where it is written as a column."""


def read_frame(
    path: str | Path, *, index: bool = False, words: Collection[str] = ()
) -> nw.DataFrame[Any]:
    r"""Read a table as a frame.

    Args:
        path: a file that ends in .csv (with a header, columns between commas, in UTF-8), .parquet
            or .feather. Empty cells of a .csv are missing, and so are those that say NA, NaN, null
            or the like without quotes.
        index: whether the index that pandas wrote beside the columns of a frame becomes columns.
        words: the columns of a .csv that hold strings, also if all of them look like numbers.

    Raises:
        ValueError: if narwhals or pyarrow is not installed, the file is not of its kind, its
            columns have no names, or two have the same.
        OSError: if the file cannot be read.

    Example:
        >>> import pathlib, tempfile, pyrovae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "table.csv"
        ...     _ = path.write_text("a,b\n1,0.5\n2,0.25\n")
        ...     frame = pv.data.frames.read_frame(path)
        >>> frame.columns, frame["b"].to_list()
        (['a', 'b'], [0.5, 0.25])
    """
    nw = extra("narwhals", "frames")
    arrow = extra("pyarrow", "frames")
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"a table is a file {', '.join(SUFFIXES)}; got {path}")
    try:
        if suffix == ".csv":
            table = _read_csv(path, words)
        elif suffix == ".parquet":
            # The file itself, so that folders named key=value do not become columns.
            table = extra("pyarrow.parquet", "frames").ParquetFile(path).read()
        else:
            table = extra("pyarrow.feather", "frames").read_table(path)
        _check_distinct(table.column_names, path)
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no {suffix[1:]} table: {error}") from error
    frame = nw.from_native(table, eager_only=True)
    return frame if index else without_index(frame)


def _read_csv(path: Path, words: Collection[str]) -> Any:
    """Read a CSV file with Arrow."""
    csv, arrow = extra("pyarrow.csv", "frames"), extra("pyarrow", "frames")
    _check_commas(path)
    types = dict.fromkeys(words, arrow.string())
    gaps = {"strings_can_be_null": True, "quoted_strings_can_be_null": False}
    table = _parsed(path, csv.ConvertOptions(column_types=types, **gaps))
    # Arrow reads words that are not in UTF-8 as bytes.
    coded = [each.name for each in table.schema if arrow.types.is_binary(each.type)]
    if coded:
        raise _not_utf8(path, f"the column {coded[0]!r}")
    _check_header(table.column_names, path)
    return table


def _parsed(path: Path, options: Any) -> Any:
    """Read a CSV file in pieces that hold a whole line each, of many columns or a long text."""
    csv, arrow = extra("pyarrow.csv", "frames"), extra("pyarrow", "frames")
    piece = csv.ReadOptions().block_size
    while True:
        read = csv.ReadOptions(block_size=piece)
        try:
            return csv.read_csv(path, read_options=read, convert_options=options)
        except arrow.ArrowInvalid as error:
            cut = any(said in str(error) for said in ("straddling", "Empty CSV file or block"))
            if not cut or piece > path.stat().st_size:
                raise
            piece = min(8 * piece, LARGEST_PIECE)


def _check_commas(path: Path) -> None:
    """Check that the first line of a CSV file is text whose names stand between commas.

    Raises:
        ValueError: if it is not in UTF-8, or other signs separate the names. Each line would be
            one word.
    """
    with path.open("rb") as file:
        line = file.readline()
    try:
        head = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, "its first line") from error
    if "\0" in head:
        raise _not_utf8(path, "its first line")
    for sign, written in {";": "';'", "\t": "'\\t'", "|": "'|'"}.items():
        if sign in head and not {",", '"'} & {*head}:
            raise ValueError(
                f"the first line of {path} has {written} in place of commas between the names: "
                f"convert it, pandas.read_csv({str(path)!r}, sep={written}).to_csv(new, "
                "index=False), with decimal=',' too if numbers have decimal commas"
            )


def _not_utf8(path: Path, where: str) -> ValueError:
    return ValueError(
        f"{path} is not in UTF-8, the first time in {where}: convert it, pandas.read_csv("
        f"{str(path)!r}, encoding='cp1252').to_csv(new, index=False), by the encoding that it has"
    )


def words_of(reading: Reading) -> set[str]:
    """Return the columns that held strings in the data that a reading records.

    Another CSV file of them may have only those that look like numbers, dates or booleans.

    Example:
        >>> from pyrovae.data import Reading
        >>> from pyrovae.data.frames import words_of
        >>> words_of(Reading(covariates={"batch": ["1", "2"], "site": ["1", "a"]}))
        {'site'}
    """
    table = Table.from_record(reading.table) if isinstance(reading.table, Mapping) else None
    levels = {column.name: column.levels for column in table.columns} if table else {}
    found = {name for name, known in levels.items() if any(isinstance(v, str) for v in known)}
    for name, known in reading.kinds.items():
        # Categories are recorded as strings, those of whole numbers and booleans too.
        strings = () if known is None or isinstance(known, str) else known
        if any(not _is_number(v) and v not in ("True", "False") for v in strings):
            found.add(name)
    return found


def _check_header(names: Sequence[str], path: Path) -> None:
    """Check that the first line of a CSV file holds names; pandas' default 0, 1, ... are names."""
    there = [name for name in names if name]
    if there == [str(i) for i in range(len(there))] or not all(map(_is_number, there)):
        return
    raise ValueError(
        f"the first line of {path} has numbers, {_listed(there)}, in place of the names of "
        "columns: add a line of names above it. Names begin with a letter, such as x1.5"
    )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _check_distinct(names: Sequence[str], path: Path) -> None:
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(
            f"{path} has several columns named {twice[0]!r}: give each a name of its own"
        )


def index_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that are the index of a frame of pandas.

    Example:
        >>> import pandas, pyarrow
        >>> from pyrovae.data.frames import index_columns
        >>> frame = pandas.DataFrame({"a": [1, 2, 3]})[1:3].set_axis([5, 3])
        >>> index_columns(pyarrow.Table.from_pandas(frame).schema)
        ['__index_level_0__']
    """
    recorded = (schema.pandas_metadata or {}).get("index_columns", ())
    names = {name for name in recorded if isinstance(name, str)}
    return [name for name in schema.names if name in names or UNNAMED.fullmatch(name)]


def without_index(frame: nw.DataFrame[Any], keep: Collection[str] = ()) -> nw.DataFrame[Any]:
    """Return a frame of Arrow without the columns that are the index of a frame of pandas.

    Args:
        frame: the frame.
        keep: the names of columns that stay.
    """
    found = index_columns(frame.to_native().schema)
    return frame.drop([name for name in found if name not in keep])


def read(path: Path, reading: Reading) -> Contents:
    """Read a table of numbers: every column is a dimension of x, except for those asked for."""
    frame = read_frame(path, index=True, words=words_of(reading))
    return numeric(frame, reading, str(path))


def numeric(frame: nw.DataFrame[Any], reading: Reading, where: str) -> Contents:
    """Return the numeric columns of a frame, beside labels, covariates and the names of splits.

    Args:
        frame: the frame, of Arrow. An index of pandas in it is no column, unless it is named.
        reading: the columns that are not part of x.
        where: the name of the frame, for error messages.

    Raises:
        ValueError: if a column does not exist, has no name, is not numeric or has missing values.
    """
    asked = reading.asked()
    chosen = [reading.key] if isinstance(reading.key, str) else list(reading.key or ())
    frame = without_index(frame, {*asked, *chosen, *_of_table(reading)})
    for name in (*asked, *chosen):
        if name not in frame.columns:
            raise NoColumn(
                name, f"{where} has no column {name!r}; it has {_listed(frame.columns)}"
            )
    columns = chosen or [name for name in frame.columns if name not in asked]
    if "" in columns:
        raise ValueError(
            f"column {columns.index('') + 1} of {where} has no name, like an index that pandas "
            "writes: leave it out, frame.to_csv(path, index=False), name it, or list the columns "
            "of x with the option key"
        )
    whole, beside_x = frame, frame.select(asked) if asked else None
    frame = frame.select([*columns, *(name for name in asked if name not in columns)])
    if not columns:
        raise ValueError(f"{where} has no columns besides {_listed(asked)}: nothing is left for x")
    if _is_mixed(frame.select(columns), reading):
        beside = {}
        if beside_x is not None:
            _check_complete(beside_x, where)
            floats = _without_decimals(beside_x)
            beside = {name: floats[name].to_numpy() for name in asked}
        return Contents(beside=beside, columns=tuple(columns), frame=whole)
    schema = frame.schema
    for name in columns:
        if not (schema[name].is_numeric() or str(schema[name]) == "Boolean"):
            raise ValueError(
                f"column {name!r} of {where} holds {schema[name]}, not numbers: name it as labels "
                "or a covariate, list the columns of x with the option key, or build a "
                "pv.data.Table of the mixed columns"
            )
    _check_complete(frame, where)
    frame = _without_decimals(frame)
    if {str(schema[name]) for name in columns} == {"Boolean"}:
        x = frame.select(columns).to_numpy().astype(bool)
    else:
        x = np.stack([frame[name].to_numpy() for name in columns], 1)
    beside = {name: frame[name].to_numpy() for name in asked}
    return Contents(x, beside=beside, columns=tuple(columns))


def _without_decimals(frame: nw.DataFrame[Any]) -> nw.DataFrame[Any]:
    """Return a frame with decimal numbers as floats, which NumPy would hold as objects."""
    nw = extra("narwhals", "frames")
    names = [name for name, kind in frame.schema.items() if kind.is_decimal()]
    return frame.with_columns(nw.col(*names).cast(nw.Float64)) if names else frame


def _of_table(reading: Reading) -> set[str]:
    """Return the names of columns that the schema of a table, or its options, name."""
    recorded = isinstance(reading.table, Mapping)
    columns = Table.from_record(reading.table).columns if recorded else ()
    return {*(reading.columns or ()), *(column.name for column in columns)}


def _is_mixed(frame: nw.DataFrame[Any], reading: Reading) -> bool:
    """Return whether the columns of x are read by the schema of a table."""
    if reading.table is not None:
        return reading.table is not False
    numbers = all(kind.is_numeric() or str(kind) == "Boolean" for kind in frame.schema.values())
    return reading.columns is not None or not numbers or _missing(frame) != {}


def _missing(frame: nw.DataFrame[Any]) -> dict[str, int]:
    """Return the number of missing values of each column that has any; NaN is one."""
    found = {}
    for name, kind in frame.schema.items():  # the schema itself is made anew at each use
        missing = int(frame[name].null_count())
        if kind.is_float():
            missing += int(frame[name].is_nan().sum())
        if missing:
            found[name] = missing
    return found


def _check_complete(frame: nw.DataFrame[Any], where: str) -> None:
    for name, missing in _missing(frame).items():
        raise ValueError(
            f"column {name!r} of {where} has {missing} missing values of {len(frame)}: drop "
            "these rows, or build a pv.data.Table, which takes gaps"
        )


def _listed(names: Any) -> str:
    shown = [repr(str(name)) for name in names]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:8], f"... ({len(shown)})"])
