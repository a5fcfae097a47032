"""Read time series from .ts files, the format of sktime and of the UEA and UCR archives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.data.columns import classes_of, labeled
from pyrovae.data.reading import Contents, NoColumn, Reading
from pyrovae.data.sequences import pad

__all__ = ["Series", "read_series", "read_ts"]

MISSING = ("?", "NaN", "nan")
CLASS, TARGET = "@classlabel", "@targetlabel"


class Series(NamedTuple):
    """Time series of D dimensions, with the mask that tells their steps from padding.

    Attributes:
        x: [N, T, D], zero at padding; NaN where a value is missing.
        mask: booleans [N, T], True where there is a step.
        labels: integers [N], the classes in alphabetical order; None if there are none.
        targets: [N], the numbers to predict, in files for regression; None in others.
        classes: the names of the classes, in the order of their numbers.
    """

    x: Tensor
    mask: Tensor
    labels: Tensor | None
    targets: Tensor | None = None
    classes: tuple[str, ...] = ()


def read_series(path: str | Path) -> Series:
    r"""Return the series of a .ts file.

    A line of the data is one series: its dimensions, each with one value for each step, and its
    class or the number to predict if the header says so. `pv.fit(vae, (found.x, found.mask))`
    trains on them.

    Args:
        path: the file.

    Raises:
        ValueError: if the file has no series, has timestamps, or a line is no series, or of
            another number of dimensions or steps; the message names the line.
        OSError: if the file cannot be read.

    References:
        Löning et al., 2019. sktime: A Unified Interface for Machine Learning with Time Series.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrovae.data import read_series
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "waves.ts"
        ...     _ = path.write_text("@classLabel true a b\n@data\n1,2,3:4,5,6:b\n7:8:a\n")
        ...     found = read_series(path)
        >>> found.x.shape, found.mask.sum(1), found.labels
        (torch.Size([2, 3, 2]), tensor([3, 1]), tensor([1, 0]))
    """
    path = Path(path).expanduser()
    with _named(path), path.open(encoding="utf-8-sig") as file:
        lines = _numbered(file)
        last = _last_field(lines, path.name)
        rows: list[Tensor] = []
        labels: list[str] = []
        for number, line in lines:
            where = f"{path.name}, line {number}"
            *dimensions, label = line.split(":") if last else [*line.split(":"), ""]
            row = _series(dimensions, where)
            if rows and row.shape[1] != rows[0].shape[1]:
                raise ValueError(
                    f"{where}: expected {rows[0].shape[1]} dimensions, as in the first series; "
                    f"got {row.shape[1]}"
                )
            rows.append(row)
            labels.append(label.strip())
    if not rows:
        raise ValueError(f"{path.name} has no series after the line @data")
    x, mask = pad(rows)
    if last == TARGET:
        numbers = [_value(text, f"{path.name}, series {i}") for i, text in enumerate(labels, 1)]
        return Series(x, mask, None, torch.tensor(numbers, dtype=x.dtype))
    if not last:
        return Series(x, mask, None)
    where = f"the classes of {path.name}"
    return Series(x, mask, labeled(labels, where), classes=classes_of(labels, where))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name a file that is no text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error


def read_ts(path: Path, reading: Reading) -> Contents:
    """Read a .ts file as sequences with their mask; its classes are labels.

    Raises:
        ValueError: if an option names a column, and as `read_series`.
    """
    asked = reading.asked()
    if asked or reading.key is not None:
        named = asked[0] if asked else reading.key
        message = f"{path.name} has series and their classes, and no column {named!r}"
        raise NoColumn(str(named), message)
    found = read_series(path)
    return Contents(found.x, labels=found.labels, classes=found.classes, mask=found.mask)


def _numbered(file: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are neither empty nor comments, with their numbers."""
    for number, line in enumerate(file, 1):
        if line.strip() and not line.startswith(("#", "%")):
            yield number, line.strip()


def _last_field(lines: Iterator[tuple[int, str]], name: str) -> str:
    """Read the header, up to the line @data.

    Returns:
        what stands last in a line of the data: `CLASS`, `TARGET`, or "", a dimension.
    """
    tags: dict[str, str] = {}
    for _, line in lines:
        if not line.startswith("@"):
            break
        tag, _, value = line.lower().partition(" ")
        tags[tag] = value.strip()
        if tag == "@data":
            if tags.get("@timestamps", "").startswith("true"):
                raise ValueError(f"{name} has timestamps: give series with a value at each step")
            fields = (tag for tag in (CLASS, TARGET) if tags.get(tag, "").startswith("true"))
            return next(fields, "")
    raise ValueError(f"{name} has no line @data, which ends the header of a .ts file")


def _series(dimensions: list[str], where: str) -> Tensor:
    """Return the values of a series, [T, D]."""
    values = [[_value(text.strip(), where) for text in row.split(",")] for row in dimensions]
    lengths = {len(row) for row in values}
    if len(lengths) != 1:
        met = f"lengths {sorted(lengths)}" if lengths else "none"
        raise ValueError(f"{where}: expected dimensions of one length; got {met}")
    return torch.tensor(values, dtype=torch.get_default_dtype()).T


def _value(text: str, where: str) -> float:
    if text in MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: {text!r} is no number, and not '?' for a missing one"
        ) from error
