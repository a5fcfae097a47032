"""Batches of x and its context on the device of the parameters, epoch after epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.datasets import DataSet, Split, drawn_once
from pyrovae.data.domains import named

__all__ = ["Batch", "Batches"]

Batch = tuple[Any, ...]


class Batches:
    """Cut data into batches, tuples (x, *context), on the device where the tensors lie.

    Tensors are indexed as a whole: no Python runs per item. A dynamic `Split` is binarized afresh
    in every batch.

    Args:
        data: a tensor, a tuple (x, *context) of tensors with a row per datum (x may be a
            `Split`), a `Split`, a torch `Dataset` (its items go through torch's default collation,
            and what follows x in them is context), or an iterable of batches that can be walked
            more than once. A stream is not walked to find its length: `number` is None, and there
            is no `len`, until a walk has come to its end.
        batch_size: the number of data in a batch; the last may be smaller. An iterable of
            batches keeps its own.
        shuffle: whether to draw a new order at each walk.
        device: where the batches are moved to; as they come where it is None. Tensors for a GPU
            are moved whole, once, if half of its free memory holds them.

    Raises:
        ValueError: if there are no data, tensors differ in length, an iterator is given that is
            spent after one walk, or what another library holds; the line that mends it is named.

    Example:
        >>> [len(x) for x, in Batches(torch.zeros(5, 2), 2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        shuffle: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch has at least one datum; got batch_size={batch_size}")
        self.data, self.batch_size, self.shuffle, self.device = data, batch_size, shuffle, device
        self.dynamic, tensors = _tensors(data)
        self.tensors = _resident(tensors, device)
        self.source: Iterable[Any] = () if self.tensors else _source(data, batch_size, shuffle)
        self.number = self._count()

    def __len__(self) -> int:
        """Return the number of batches in a walk."""
        if self.number is None:
            raise TypeError("a stream has no length before it was walked over once")
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        """Walk over the data once."""
        number = 0
        for batch in self._cut() if self.tensors else _batches(self.source):
            number += 1
            yield tuple(v.to(self.device) if isinstance(v, Tensor) else v for v in batch)
        if number == 0:
            raise ValueError(
                "the data are empty: there is no batch. (An iterable of batches is walked more "
                "than once: put an iterator in a list.)"
            )
        self.number = number

    def in_order(self, batch_size: int, *, first: int | None = None) -> Batches:
        """Return the same data, held once, in their own order and in batches of another size.

        A dynamic split is binarized once, as `drawn_once` does, and the first of it kept: what is
        measured in training are the pixels that `evaluate` measures.
        """
        again = copy.copy(self)
        again.batch_size, again.shuffle = batch_size, False
        if self.dynamic:
            _, tensors = _tensors(drawn_once(self.data))
            again.dynamic = False
            again.tensors = _resident(tuple(t[:first].clone() for t in tensors), self.device)
        elif not self.tensors:
            again.source = _source(self.data, batch_size, shuffle=False)
        again.number = again._count()
        return again

    def _cut(self) -> Iterator[Batch]:
        x, *context = self.tensors
        order = torch.randperm(len(x), device=x.device) if self.shuffle else None
        for start in range(0, len(x), self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            rows = rows if order is None else order[rows]
            drawn = torch.bernoulli(x[rows]) if self.dynamic else x[rows]
            yield drawn, *(value[rows] for value in context)

    def _count(self) -> int | None:
        if self.tensors:
            return math.ceil(len(self.tensors[0]) / self.batch_size)
        try:
            number = len(cast(Sized, self.source))
        except TypeError:
            return None
        if number == 0:
            raise ValueError("the data are empty: there is no batch")
        return number


def _tensors(data: Any) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether x is dynamic, and x and its context; none where data are not tensors."""
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
            f"data (x, *context) are tensors with a row for each datum; got {named(bad[0])}"
        )
    if bad:
        return False, ()
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(lengths) > 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"x and its context have one row per datum each; got shapes {shapes}")
    if lengths <= {0}:
        raise ValueError("the data are empty: x needs at least one row")
    return dynamic, tensors


def _resident(tensors: tuple[Tensor, ...], device: torch.device | None) -> tuple[Tensor, ...]:
    """Move the data to the GPU whole, once, if half of its free memory holds them."""
    if device is None or device.type != "cuda":
        return tensors
    wanted = sum(tensor.nbytes for tensor in tensors if tensor.device != device)
    free, _ = torch.cuda.mem_get_info(device)
    return tuple(tensor.to(device) for tensor in tensors) if wanted <= free / 2 else tensors


def _source(data: Any, batch_size: int, shuffle: bool) -> Iterable[Any]:  # noqa: FBT001
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
        "data are a tensor, a tuple (x, *context), a Split, a Dataset or an iterable of batches "
        f"that can be walked at every epoch; got {met}. {remedy}".rstrip(". ")
    )


def _batches(source: Iterable[Any]) -> Iterator[Batch]:
    """Yield the batches of an iterable as tuples that begin with a tensor."""
    try:
        for batch in source:
            values = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
            if not values or not isinstance(values[0], Tensor):
                met = named(values[0]) if values else "an empty one"
                if isinstance(batch, Mapping):
                    met = f"{met} with the keys {list(batch)}: give batch[key] of that which is x"
                elif isinstance(batch, list) and isinstance(
                    values[0] if values else 0, int | float
                ):
                    met = "a list of numbers: give torch.tensor(data)"
                raise ValueError(
                    "an iterable of data gives batches, tensors [N, ...] or tuples (x, *context) "
                    f"of them; got {met}"
                )
            yield values
    except TypeError as error:
        if "default_collate" not in str(error):
            raise
        kind = str(error).rpartition("found ")[2].strip()
        raise ValueError(
            f"the items of the data set cannot be put in a batch: they hold {kind}. Let it give "
            "tensors; images by transform=torchvision.transforms.ToTensor()"
        ) from error
