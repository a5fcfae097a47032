"""Iterate over batches (x, *context) on the device of the parameters."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.arrays import Intake, Mapped, Sparse, as_rows, tensors
from pyrovae.data.datasets import DataSet, Split, drawn_once
from pyrovae.data.digits import check_arrays
from pyrovae.data.domains import named
from pyrovae.data.ranks import Ranks
from pyrovae.data.streams import Called, Parquet, ahead, opened, passed
from pyrovae.data.transformed import Transformed
from pyrovae.types import Data

__all__ = ["Batch", "Batches"]

Batch = tuple[Any, ...]
"""The arguments of the programs for some data, (x, *context)."""
Rows = Tensor | Sparse | Mapped
"""What gives a tensor of some rows when it is indexed by them."""


class Batches:
    """Split data into batches, tuples (x, *context), on a device.

    Tensors are indexed by slices, without Python code per item. A dynamic `Split` is binarized
    anew in every batch. Sparse matrices stay sparse, and memory-mapped arrays of more than 1 GiB
    on disk; their batches are read ahead by a thread.

    Args:
        data: an array (a tensor, a NumPy array, a SciPy sparse matrix, an AnnData object, a frame
            of pandas, polars or Arrow), a `Split`, a tuple (x, *context) of arrays with one row
            per datum (x may be a `Split`), the path of an .npy or .parquet file, a torch
            `Dataset` (with torch's default collation; its items are x or (x, *context)), a
            re-iterable of batches, such as a `DataLoader`, or a function that returns an iterator
            of batches. `Streamed` and `Transformed` wrap any of these. The length of a stream is
            unknown until it has been iterated over once: until then `number` is None and `len`
            raises.
        batch_size: the number of data per batch; the last batch may be smaller. An iterable of
            batches keeps its own sizes.
        shuffle: whether to permute the data in each iteration, and to transform `Transformed`
            data, as in training. Arrays of float64 are then checked: columns whose variation the
            dtype of the programs rounds away are refused.
        device: the device to move batches to; None leaves them where they are. For a GPU, tensors
            are moved once as a whole if they fit in half of its free memory.
        intake: what the programs take, by which arrays become tensors (see `arrays`).
        ranks: this process, if several share the data: then each takes its part of every joint
            batch, and an epoch has as many batches as that of rank 0.

    Raises:
        ValueError: if there are no data, arrays differ in length or are not numeric, or `data` is
            an iterator or of an unsupported type; the message names the conversion.

    Example:
        >>> import torch
        >>> from pyrovae.data import Batches
        >>> [len(x) for x, in Batches(torch.zeros(5, 2), 2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        shuffle: bool = False,
        device: torch.device | None = None,
        intake: Intake | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one datum; got batch_size={batch_size}")
        self.batch_size, self.shuffle, self.device = batch_size, shuffle, device
        self.ranks = ranks or Ranks()
        self._transformed = data if isinstance(data, Transformed) else None
        inner = data.data if isinstance(data, Transformed) else data
        self.data, self.intake = opened(inner, intake or Intake())
        self.dynamic, rows = _rows(self.data, self.intake, exact=shuffle)
        self.rows = _resident(rows, device) if self.intake.in_memory >= 0 else rows
        self.source: Iterable[Any] = () if self.rows else self._source()
        if isinstance(self.source, Parquet) and self.source.nbytes <= self.intake.in_memory:
            self.rows = _resident((self.source.whole(),), device)
        self.number = self._count()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors (x, *context) in memory whose rows the batches are; () for other data."""
        known = all(isinstance(rows, Tensor) for rows in self.rows)
        return cast(tuple[Tensor, ...], self.rows) if known and not self.transform else ()

    @property
    def transform(self) -> Callable[[Tensor], Tensor] | None:
        """The function that transforms x on the device; None if x is left as it is."""
        given = self._transformed
        return given.transform if given and (self.shuffle or given.measured) else None

    def __len__(self) -> int:
        """Return the number of batches."""
        if self.number is None:
            raise TypeError("a stream has no length until it has been iterated over once")
        return self.number

    @property
    def fewest(self) -> int | None:
        """The number of data in the smallest batch; None if it is not known."""
        if not self.rows:
            return None
        left = len(self.rows[0]) % (self.batch_size * self.ranks.world)
        return max(1, left // self.ranks.world) if left else self.batch_size

    def rows_beside(self, rows: int) -> int:
        """Return the number of data in this process's batch where that of rank 0 has `rows`."""
        if not self.rows or rows == self.batch_size:
            return rows
        left = len(self.rows[0]) % (self.batch_size * self.ranks.world)
        return len(range(self.ranks.rank, left, self.ranks.world))

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the data once."""
        return self.iterate()

    def iterate(self, *, skip: int = 0) -> Iterator[Batch]:
        """Iterate over the data once, from the batch of number `skip` on.

        The order is that of an iteration from the start, given the same state of torch's
        generator. It is drawn, and the skipped batches are passed over, before this method
        returns: a training that resumes can set the generator to its later state between this
        call and the first batch. Skipped batches of tensors are not binarized; those of a stream
        are read and discarded.

        Raises:
            ValueError: if there are no data, or fewer than `skip` batches.

        Example:
            >>> import torch
            >>> from pyrovae.data import Batches
            >>> batches = Batches(torch.arange(5.0), 2)
            >>> [x.tolist() for x, in batches.iterate(skip=1)]
            [[2.0, 3.0], [4.0]]
        """
        if self.rows:
            x = self.rows[0]
            device = x.device if isinstance(x, Tensor) else None
            order = torch.randperm(len(x), device=device) if self.shuffle else None
            if self.ranks.several:
                order = self._shared(order)
            remaining, before = self._cut(order, skip * self.batch_size), min(skip, len(self))
        else:
            remaining = _batches(self.source, self.intake)
            if self.ranks.several:
                remaining = self.ranks.turns(remaining, self.source)
            before = passed(remaining, skip)
        if before < skip - self.ranks.several:  # rank 0 may have a batch more
            raise ValueError(f"the data have {before} batches; got skip={skip}")
        return self._counted(remaining, skip)

    def _shared(self, order: Tensor | None) -> Tensor:
        """Return the rows of this process, in the order of rank 0."""
        order = torch.arange(len(self.rows[0])) if order is None else order
        self.ranks.overwrite([order])
        return self.ranks.rows(order, self.batch_size)

    def _counted(self, remaining: Iterator[Batch], number: int) -> Iterator[Batch]:
        for batch in remaining:
            number += 1
            x, *context = (self._moved(v) if isinstance(v, Tensor) else v for v in batch)
            yield x if self.transform is None else self.transform(x), *context
        if number == 0:
            raise ValueError(
                "the data are empty: there is no batch. (Batches are iterated over more than "
                "once: if they are an iterator, put them in a list.)"
            )
        self.number = number

    def in_order(self, batch_size: int, *, first: int | None = None) -> Batches:
        """Return the same data, unshuffled and in batches of another size, without a copy.

        A dynamic split is binarized once as by `drawn_once`, so that evaluations during training
        use the same pixels as `evaluate`. `first` limits it to its first rows.
        """
        again = copy.copy(self)
        again.batch_size, again.shuffle, again.ranks = batch_size, False, Ranks()
        if self.dynamic:
            _, rows = _rows(drawn_once(self.data), self.intake)
            again.dynamic = False
            again.rows = _resident(tuple(row[:first].clone() for row in rows), self.device)
        elif not self.rows:
            again.source = again._source()
        again.number = again._count()
        return again

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=self._on_gpu)

    @property
    def _on_gpu(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    def _cut(self, order: Tensor | None, first: int) -> Iterator[Batch]:
        """Yield the batches from a row on, in the given order."""
        read: Iterator[Batch] = map(self._read, self._places(order, first))
        if not all(isinstance(rows, Tensor) for rows in self.rows):
            read = ahead(read)
        for x, *context in read:
            yield torch.bernoulli(x) if self.dynamic else x, *context

    def _places(self, order: Tensor | None, first: int) -> Iterator[Any]:
        number = len(self.rows[0]) if order is None else len(order)
        for start in range(first, number, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield rows if order is None else order[rows]

    def _read(self, place: Any) -> Batch:
        found = (_taken(rows, place) for rows in self.rows)
        return tuple(v.pin_memory() if self._on_gpu and not v.is_cuda else v for v in found)

    def _source(self) -> Iterable[Any]:
        return _source(self.data, self)

    def _count(self) -> int | None:
        if self.rows:
            return math.ceil(len(self.rows[0]) / (self.batch_size * self.ranks.world))
        try:
            number = len(cast(Sized, self.source))
        except TypeError:
            return None
        if number == 0:
            raise ValueError("the data are empty: there is no batch")
        return math.ceil(number / self.ranks.world)


def _taken(rows: Rows, place: Any) -> Tensor:
    """Return rows by a slice or by their numbers."""
    if isinstance(rows, Tensor) and isinstance(place, Tensor) and rows.device == place.device:
        return rows.index_select(0, place)  # twice as fast as rows[place]
    return rows[place]


def _rows(data: Data, intake: Intake, *, exact: bool = False) -> tuple[bool, tuple[Rows, ...]]:
    """Return whether x is dynamic, and the rows of (x, *context), () if data are no arrays.

    With `exact`, arrays whose columns the dtype of the programs rounds away are refused.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    values = data if isinstance(data, tuple) else (data,)
    x = values[0] if values else None
    dynamic = isinstance(x, Split) and x.dynamic
    values = (x.x, *x.context, *values[1:]) if isinstance(x, Split) else values
    whole = isinstance(data, tuple) and not isinstance(x, tuple | list)
    if not whole and isinstance(x, Dataset):
        return False, ()
    rows = tuple(as_rows(intake, value, context=place > 0) for place, value in enumerate(values))
    bad = [v for v in rows if not isinstance(v, Rows) or _is_sparse_tensor(v)]
    if bad and (whole or isinstance(bad[0], Tensor)):
        raise ValueError(
            f"data (x, *context) must be arrays with one row per datum; got {named(bad[0])}"
        )
    if bad:
        return False, ()
    lengths = {len(row) if row.shape else 0 for row in rows}
    if len(lengths) > 1:
        shapes = [tuple(row.shape) for row in rows]
        raise ValueError(f"x and its context must have one row per datum; got shapes {shapes}")
    if lengths <= {0}:
        raise ValueError("the data are empty: x needs at least one row")
    if exact:
        check_arrays(values, rows)
    return dynamic, rows


def _is_sparse_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout != torch.strided


def _resident(rows: tuple[Rows, ...], device: torch.device | None) -> tuple[Rows, ...]:
    """Move all data to a GPU once, if they are tensors and fit in half of its free memory."""
    tensors = [row for row in rows if isinstance(row, Tensor)]
    if device is None or device.type != "cuda" or len(tensors) < len(rows):
        return rows
    wanted = sum(tensor.nbytes for tensor in tensors if tensor.device != device)
    free, _ = torch.cuda.mem_get_info(device)
    return tuple(tensor.to(device) for tensor in tensors) if wanted <= free / 2 else rows


def _source(data: Any, batches: Batches) -> Iterable[Any]:
    size, shuffle = batches.batch_size, batches.shuffle
    if isinstance(data, Dataset):
        shuffle = shuffle and not isinstance(data, IterableDataset)
        return DataLoader(data, size, shuffle=shuffle, pin_memory=batches._on_gpu)
    if isinstance(data, Called):
        return data
    if isinstance(data, str | os.PathLike) and Path(data).suffix == ".parquet":
        return Parquet(Path(data), size, shuffle=shuffle, intake=batches.intake)
    met, remedy = named(data), "Put an iterator in a list"
    if isinstance(data, DataSet):
        remedy = "Give one of its splits, data.train"
    elif isinstance(data, Mapping | str | bytes | os.PathLike):
        remedy = "Give x by itself, or a tuple (x, *context)"
    elif ": give" in met:
        remedy = ""
    elif isinstance(data, Iterable) and not isinstance(data, Iterator):
        return data
    raise ValueError(
        "data must be an array, a tuple (x, *context), a Split, a Dataset or an iterable of "
        f"batches that can be iterated over in every epoch; got {met}. {remedy}".rstrip(". ")
    )


def _batches(source: Iterable[Any], intake: Intake) -> Iterator[Batch]:
    """Yield the batches of an iterable as tuples (x, *context)."""
    try:
        for batch in source:
            values = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
            values = tuple(_batch(intake, values)) if values else values
            if not values or not isinstance(values[0], Tensor):
                met = named(values[0]) if values else "an empty batch"
                if isinstance(batch, Mapping):
                    met = f"{met} with the keys {list(batch)}: give batch[key] for the key of x"
                elif isinstance(batch, list) and isinstance(
                    values[0] if values else 0, int | float
                ):
                    met = "a list of numbers: give torch.tensor(data)"
                raise ValueError(
                    "an iterable of data must yield batches, tensors [N, ...] or tuples "
                    f"(x, *context) of tensors; got {met}"
                )
            yield values
    except TypeError as error:
        if "default_collate" not in str(error):
            raise
        kind = str(error).rpartition("found ")[2].strip()
        raise ValueError(
            f"the items of the data set cannot be collated: they contain {kind}. Return tensors; "
            "for images, use transform=torchvision.transforms.ToTensor()"
        ) from error


def _batch(intake: Intake, values: Batch) -> Batch:
    """Return the arrays of a batch as tensors.

    Raises:
        ValueError: if x is an array of one axis, which may be a row.
    """
    if getattr(values[0], "ndim", 2) < 2 and not isinstance(values[0], Tensor):
        raise ValueError(
            f"an iterable of data must yield batches [N, ...]; got {type(values[0]).__name__} of "
            f"shape {tuple(values[0].shape)}: give torch.from_numpy(numpy.stack(data)) if these "
            "are rows, and x[:, None] if they are batches of single numbers"
        )
    return tuple(tensors(intake, *values))
