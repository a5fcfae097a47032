"""Write a frame to a file: CSV, Parquet or Feather, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pyrovae.data.frames import SUFFIXES
from pyrovae.data.reading import extra
from pyrovae.files import write_atomically

__all__ = ["check_suffix", "write_frame"]


def check_suffix(path: Path) -> None:
    """Check that a path names a kind of file that `write_frame` writes.

    Raises:
        ValueError: if it does not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a frame is written as {', '.join(SUFFIXES)}; got {path}")


def write_frame(frame: Any, path: str | Path) -> None:
    r"""Write a frame of pandas, polars or Arrow, in place of an earlier file.

    Args:
        frame: the frame.
        path: a file that ends in .csv, .parquet or .feather. A CSV file keeps no dtypes.

    Raises:
        ValueError: if the suffix is another, or narwhals or pyarrow is not installed.
        OSError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile, pandas, pyrovae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "people.csv"
        ...     pv.data.write_frame(pandas.DataFrame({"a": [1, 2], "b": ["x", None]}), path)
        ...     path.read_text()
        '"a","b"\n1,"x"\n2,\n'
    """
    path = Path(path)
    check_suffix(path)
    table = extra("narwhals", "frames").from_native(frame, eager_only=True).to_arrow()
    contents = io.BytesIO()
    if path.suffix.lower() == ".parquet":
        extra("pyarrow.parquet", "frames").write_table(table, contents)
    elif path.suffix.lower() == ".feather":
        extra("pyarrow.feather", "frames").write_feather(table, contents)
    else:
        extra("pyarrow.csv", "frames").write_csv(_plain(table), contents)
    write_atomically(path, contents.getvalue())


def _plain(table: Any) -> Any:
    """Return an Arrow table without dictionaries, which CSV files cannot hold."""
    arrow = extra("pyarrow", "frames")
    for index, field in enumerate(table.schema):
        if arrow.types.is_dictionary(field.type):
            values = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, values)
    return table
