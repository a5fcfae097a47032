"""Guard a graph: compare the Python values it was recorded under with the present ones."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from operator import attrgetter, getitem, is_
from typing import Any, Final

from torch import Tensor

from pyrovae.graphs.contents import contents_of
from pyrovae.graphs.holders import SIZED, Holder, alike, same_keys

__all__ = ["Guards"]

_FORM: Final = attrgetter("shape", "dtype", "device", "requires_grad")


class Guards:
    """The values a graph was recorded under, compared with the present ones in microseconds.

    Args:
        read: the tensors that the graph reads.
    """

    def __init__(self, read: Sequence[Tensor] = ()) -> None:
        self._read = set(map(id, read))
        self._places: list[tuple[Holder, Any]] = []
        self._sources: list[Any] = []
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._cells: list[tuple[Holder, types.CellType]] = []
        self._contents: list[Any] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []
        self._ordered: list[dict[Any, Any]] = []
        self._orders: list[tuple[Any, ...]] = []
        self._forms: list[tuple[Holder, Any, Any]] = []
        self._wholes: list[Any] = []
        self._held: list[Any] = []

    def add(self, holder: Holder, key: Any, value: Any) -> None:
        """Guard a value."""
        if isinstance(holder.at, types.CellType):
            self._cells.append((holder, holder.at))
            self._contents.append(value)
            return
        self._places.append((holder, key))
        self._sources.append(holder.source)
        self._keys.append(key)
        self._values.append(value)

    def add_size(self, holder: Holder) -> None:
        """Guard the number of values of a list or dict, and the order of those of a dict."""
        self._sized.append(holder.at)
        self._sizes.append(len(holder.at))
        if isinstance(holder.at, dict) and len(holder.at) > 1:
            self._ordered.append(holder.at)
            self._orders.append(tuple(holder.at))

    def add_form(self, holder: Holder, key: Any, tensor: Tensor) -> None:
        """Guard the shape of a tensor that the graph does not read: Python may read its length."""
        self._forms.append((holder, key, _FORM(tensor)))

    def add_whole(self, whole: Any, held: Any) -> None:
        """Guard the contents of an array or a set."""
        self._wholes.append(whole)
        self._held.append(held)

    def holds(self) -> bool:
        """Tell whether every place still holds the same object."""
        try:
            now = list(map(getitem, self._sources, self._keys))
            inner = [cell.cell_contents for _, cell in self._cells]
        except (KeyError, IndexError, ValueError):
            return False
        return (
            all(map(is_, now, self._values))
            and all(map(is_, inner, self._contents))
            and self._same_sizes()
        )

    def _same_sizes(self) -> bool:
        return (
            list(map(len, self._sized)) == self._sizes
            and list(map(contents_of, self._wholes)) == self._held
            and all(map(same_keys, self._ordered, self._orders))
            and all(_is_formed(holder.read(key), form) for holder, key, form in self._forms)
        )

    def changed(self) -> list[tuple[Any, Any]] | None:
        """Return the former and present values that differ; None if a container's size has.

        Of containers that equal ones have replaced, these are the tensors that the graph reads.
        """
        if not self._same_sizes():
            return None
        now = [holder.read(key) for holder, key in self._places]
        now += [holder.read("") for holder, _ in self._cells]
        pairs = list(zip((*self._values, *self._contents), now, strict=True))
        different = [(then, value) for then, value in pairs if not alike(then, value)]
        inner = [pair for then, value in pairs for pair in _inside(then, value)]
        tensors = {id(then): (then, value) for then, value in inner if id(then) in self._read}
        found = different + [pair for pair in tensors.values() if pair[0] is not pair[1]]
        self._read.update(id(value) for _, value in found if isinstance(value, Tensor))
        return found

    def accept(self) -> None:
        """Accept the present values.

        A dict or list that has replaced an equal one is guarded in its place.
        """
        now = [holder.read("") for holder, _ in self._cells]
        moved = _replaced(self._contents, now)
        self._contents = now
        for i, (holder, key) in enumerate(self._places):
            if id(holder.at) in moved:
                holder.at = moved[id(holder.at)]
            self._sources[i] = holder.source
            value = holder.read(key)
            moved |= _replaced([self._values[i]], [value])
            self._values[i] = value
        self._sized = [moved.get(id(sized), sized) for sized in self._sized]
        self._ordered = [moved.get(id(held), held) for held in self._ordered]
        for holder, *_ in self._forms:
            holder.at = moved.get(id(holder.at), holder.at)


def _replaced(then: Sequence[Any], now: Sequence[Any]) -> dict[int, Any]:
    """Return the dicts and lists that have replaced others, by the ids of the former ones."""
    found: dict[int, Any] = {}
    for a, b in zip(then, now, strict=True):
        if a is not b and isinstance(a, SIZED):
            found[id(a)] = b
        elif a is not b and isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            found |= _replaced(a, b)
    return found


def _inside(then: Any, now: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the former and present tensors in a container that an equal one has replaced."""
    if then is now or type(then) is not type(now):
        return
    if isinstance(then, dict):
        pairs = [(value, now.get(key)) for key, value in then.items()]
    elif isinstance(then, (*SIZED, tuple)):
        pairs = list(zip(then, now, strict=False))
    else:
        return
    for one, other in pairs:
        if isinstance(one, Tensor):
            yield one, other
        else:
            yield from _inside(one, other)


def _is_formed(value: Any, form: Any) -> bool:
    return isinstance(value, Tensor) and _FORM(value) == form
