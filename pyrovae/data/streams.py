"""Data that are read piece by piece: files, sources told to stream, and functions of batches.

A memory-mapped array is permuted as a whole: each batch reads its own rows, in the order on disk.
A parquet file is read one or more row groups at a time: their order is permuted, and rows within
what is read at once, at least `WINDOW` of them. Both read ahead of the training in a thread.
"""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import Intake, tensors
from pyrovae.data.frames import index_columns

__all__ = ["Called", "Parquet", "Streamed", "ahead", "opened"]

WINDOW: Final = 2**16
"""The least number of rows of a parquet file within which rows are permuted."""

DEPTH: Final = 2
"""The number of batches that are read ahead."""

T = TypeVar("T")


@dataclass(frozen=True)
class Streamed:
    """Data of which only the batches are read and moved to the device, whatever their size.

    Without it, memory-mapped arrays and parquet files up to 1 GiB are read whole, and tensors
    that fit in half of a GPU's free memory are moved there. To read a larger array whole, give
    `numpy.array(x)`.

    Attributes:
        data: a memory-mapped array, the path of an .npy or .parquet file, tensors or arrays, or a
            tuple (x, *context) of these.

    Example:
        >>> import torch
        >>> from pyrovae.data import Batches, Streamed
        >>> [len(x) for x, in Batches(Streamed(torch.zeros(5, 2)), 2)]
        [2, 2, 1]
    """

    data: Any


class Parquet:
    """The rows of a parquet file, in batches.

    Args:
        path: a parquet file whose columns are numeric, but for an index of pandas.
        batch_size: the number of rows of a batch.
        shuffle: whether to permute the row groups, and the rows of those that are read at once.
        intake: what the programs take.

    Raises:
        ValueError: if pyarrow or narwhals is not installed.
    """

    def __init__(self, path: Path, batch_size: int, *, shuffle: bool, intake: Intake) -> None:
        try:
            import narwhals  # noqa: F401
            from pyarrow import parquet
        except ImportError as error:
            raise ValueError(
                f"{path} needs pyarrow and narwhals: python -m pip install 'pyrovae[frames]'"
            ) from error
        self.file = parquet.ParquetFile(path, memory_map=True)
        self.batch_size, self.shuffle, self.intake = batch_size, shuffle, intake
        self.rows = self.file.metadata.num_rows
        schema = self.file.schema_arrow
        self.index = index_columns(schema)
        columns = len(schema.names) - len(self.index)
        self.nbytes = self.rows * columns * intake.floats.itemsize

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Read the file once. The order is drawn first, from torch's generator."""
        groups = list(range(self.file.num_row_groups))
        generator = None
        if self.shuffle:
            groups = torch.randperm(len(groups)).tolist()
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return self._cut(groups, generator)

    def whole(self) -> Tensor:
        """Return all rows."""
        return self._tensor(list(range(self.file.num_row_groups)))

    def _cut(self, groups: list[int], generator: torch.Generator | None) -> Iterator[Tensor]:
        left: list[Tensor] = []
        for rows in ahead(map(self._tensor, self._windows(groups)), depth=1):
            if generator is not None:
                rows = rows[torch.randperm(len(rows), generator=generator)]
            *whole, last = (torch.cat([*left, rows]) if left else rows).split(self.batch_size)
            left = [last] if len(last) < self.batch_size else []
            yield from whole if left else [*whole, last]
        yield from left

    def _windows(self, groups: list[int]) -> Iterator[list[int]]:
        """Yield groups that are read at once."""
        some, rows = [], 0
        for group in groups:
            some.append(group)
            rows += self.file.metadata.row_group(group).num_rows
            if rows >= WINDOW:
                yield some
                some, rows = [], 0
        if rows:
            yield some

    def _tensor(self, groups: list[int]) -> Tensor:
        table = self.file.read_row_groups(groups).drop_columns(self.index)
        found: Tensor = tensors(self.intake, table)[0]
        return found


@dataclass(frozen=True)
class Called:
    """The batches of an iterator that a function returns, called anew in each iteration.

    Attributes:
        function: takes no arguments.
    """

    function: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        """Call the function."""
        return iter(self.function())


def opened(data: Any, intake: Intake) -> tuple[Any, Intake]:
    """Open what data name: .npy files are memory-mapped, and functions are called.

    Returns:
        The data, and the intake, which reads nothing whole if the data are `Streamed`.
    """
    if isinstance(data, Streamed):
        return opened(data.data, replace(intake, in_memory=-1))
    if isinstance(data, tuple) and data and not isinstance(data[0], tuple | list):
        return tuple(map(_mapped, data)), intake
    if inspect.isfunction(data) or inspect.ismethod(data) or isinstance(data, functools.partial):
        return Called(data), intake
    return _mapped(data), intake


def _mapped(value: Any) -> Any:
    if isinstance(value, str | os.PathLike) and Path(value).suffix == ".npy":
        return np.load(value, mmap_mode="r")
    return value


def ahead(items: Iterator[T], *, depth: int = DEPTH) -> Iterator[T]:
    """Yield items that a thread reads ahead; they must draw no random numbers.

    Example:
        >>> list(ahead(iter("abcd")))
        ['a', 'b', 'c', 'd']
    """
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="pyrovae-reader") as reader:
        waiting = collections.deque(reader.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(reader.submit(next, items, end))
            yield item


def passed(items: Iterator[Any], number: int) -> int:
    """Discard some items, and return how many there were."""
    return sum(1 for _ in itertools.islice(items, number))
