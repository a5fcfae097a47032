"""Iterate over batches (x, *context) on the device of the parameters."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.datasets import DataSet, Split, drawn_once
from pyrovae.data.domains import named
from pyrovae.data.ranks import Ranks
from pyrovae.types import Data

__all__ = ["Batch", "Batches"]

Batch = tuple[Any, ...]


class Batches:
    """Split data into batches, tuples (x, *context), on a device.

    Tensors are indexed by slices, without Python code per item. A dynamic `Split` is binarized
    anew in every batch.

    Args:
        data: a tensor, a `Split`, a tuple (x, *context) of tensors with one row per datum (x may
            be a `Split`), a torch `Dataset` (with torch's default collation; its items are x or
            (x, *context)), or a re-iterable of batches. The length of a stream is unknown until
            it has been iterated over once: until then `number` is None and `len` raises.
        batch_size: the number of data per batch; the last batch may be smaller. An iterable of
            batches keeps its own sizes.
        shuffle: whether to permute the data in each iteration.
        device: the device to move batches to; None leaves them where they are. For a GPU, tensors
            are moved once as a whole if they fit in half of its free memory.
        ranks: this process, if several share the data: then each takes its part of every joint
            batch, and an epoch has as many batches as that of rank 0.

    Raises:
        ValueError: if there are no data, tensors differ in length, or `data` is an iterator or of
            an unsupported type; the message names the conversion.

    Example:
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
        ranks: Ranks | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one datum; got batch_size={batch_size}")
        self.data, self.batch_size, self.shuffle, self.device = data, batch_size, shuffle, device
        self.ranks = ranks or Ranks()
        self.dynamic, tensors = _tensors(data)
        self.tensors = _resident(tensors, device)
        self.source: Iterable[Any] = () if self.tensors else _source(data, batch_size, shuffle)
        self.number = self._count()

    def __len__(self) -> int:
        """Return the number of batches."""
        if self.number is None:
            raise TypeError("a stream has no length until it has been iterated over once")
        return self.number

    @property
    def fewest(self) -> int | None:
        """The number of data in the smallest batch; None if it is not known."""
        if not self.tensors:
            return None
        left = len(self.tensors[0]) % (self.batch_size * self.ranks.world)
        return max(1, left // self.ranks.world) if left else self.batch_size

    def rows_beside(self, rows: int) -> int:
        """Return the number of data in this process's batch where that of rank 0 has `rows`."""
        if not self.tensors or rows == self.batch_size:
            return rows
        left = len(self.tensors[0]) % (self.batch_size * self.ranks.world)
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
            >>> batches = Batches(torch.arange(5.0), 2)
            >>> [x.tolist() for x, in batches.iterate(skip=1)]
            [[2.0, 3.0], [4.0]]
        """
        if self.tensors:
            x = self.tensors[0]
            order = torch.randperm(len(x), device=x.device) if self.shuffle else None
            if self.ranks.several:
                order = self._shared(order)
            remaining, passed = self._cut(order, skip * self.batch_size), min(skip, len(self))
        else:
            remaining = _batches(self.source)
            if self.ranks.several:
                remaining = self.ranks.turns(remaining, self.source)
            passed = sum(1 for _ in itertools.islice(remaining, skip))
        if passed < skip - self.ranks.several:  # rank 0 may have a batch more
            raise ValueError(f"the data have {passed} batches; got skip={skip}")
        return self._counted(remaining, skip)

    def _shared(self, order: Tensor | None) -> Tensor:
        """Return the rows of this process, in the order of rank 0."""
        x = self.tensors[0]
        order = torch.arange(len(x), device=x.device) if order is None else order
        self.ranks.overwrite([order])
        return self.ranks.rows(order, self.batch_size)

    def _counted(self, remaining: Iterator[Batch], number: int) -> Iterator[Batch]:
        for batch in remaining:
            number += 1
            yield tuple(v.to(self.device) if isinstance(v, Tensor) else v for v in batch)
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
            _, tensors = _tensors(drawn_once(self.data))
            again.dynamic = False
            again.tensors = _resident(tuple(t[:first].clone() for t in tensors), self.device)
        elif not self.tensors:
            again.source = _source(self.data, batch_size, shuffle=False)
        again.number = again._count()
        return again

    def _cut(self, order: Tensor | None, first: int) -> Iterator[Batch]:
        x, *context = self.tensors
        for start in range(first, len(x if order is None else order), self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            rows = rows if order is None else order[rows]
            drawn = torch.bernoulli(x[rows]) if self.dynamic else x[rows]
            yield drawn, *(value[rows] for value in context)

    def _count(self) -> int | None:
        if self.tensors:
            return math.ceil(len(self.tensors[0]) / (self.batch_size * self.ranks.world))
        try:
            number = len(cast(Sized, self.source))
        except TypeError:
            return None
        if number == 0:
            raise ValueError("the data are empty: there is no batch")
        return math.ceil(number / self.ranks.world)


def _tensors(data: Data) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether x is dynamic, and the tensors (x, *context), () if data are not tensors."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    values = data if isinstance(data, tuple) else (data,)
    x = values[0] if values else None
    dynamic = isinstance(x, Split) and x.dynamic
    tensors = (x.x, *values[1:]) if isinstance(x, Split) else values
    whole = isinstance(data, tuple) and not isinstance(x, tuple | list)
    bad = [v for v in tensors if not isinstance(v, Tensor) or v.layout != torch.strided]
    if bad and (whole or isinstance(bad[0], Tensor)):
        raise ValueError(
            f"data (x, *context) must be tensors with one row per datum; got {named(bad[0])}"
        )
    if bad:
        return False, ()
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(lengths) > 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"x and its context must have one row per datum; got shapes {shapes}")
    if lengths <= {0}:
        raise ValueError("the data are empty: x needs at least one row")
    return dynamic, tensors


def _resident(tensors: tuple[Tensor, ...], device: torch.device | None) -> tuple[Tensor, ...]:
    """Move all data to a GPU once, if they fit in half of its free memory."""
    if device is None or device.type != "cuda":
        return tensors
    wanted = sum(tensor.nbytes for tensor in tensors if tensor.device != device)
    free, _ = torch.cuda.mem_get_info(device)
    return tuple(tensor.to(device) for tensor in tensors) if wanted <= free / 2 else tensors


def _source(data: Data, batch_size: int, shuffle: bool) -> Iterable[Any]:  # noqa: FBT001
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size, shuffle=shuffle)
    met, remedy = named(data), "Put an iterator in a list"
    if isinstance(data, DataSet):
        remedy = "Give one of its splits, data.train"
    elif isinstance(data, Mapping | str | bytes):
        remedy = "Give x by itself, or a tuple (x, *context)"
    elif ": give" in met:
        remedy = ""
    elif isinstance(data, Iterable) and not isinstance(data, Iterator):
        return data
    raise ValueError(
        "data must be a tensor, a tuple (x, *context), a Split, a Dataset or an iterable of "
        f"batches that can be iterated over in every epoch; got {met}. {remedy}".rstrip(". ")
    )


def _batches(source: Iterable[Any]) -> Iterator[Batch]:
    """Yield the batches of an iterable as tuples (x, *context)."""
    try:
        for batch in source:
            values = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
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
