"""Guard a graph: compare the Python values it was recorded under with the present ones."""

from __future__ import annotations

import types
from collections.abc import Sequence
from operator import getitem, is_
from typing import Any

from pyrovae.graphs.contents import contents_of
from pyrovae.graphs.holders import SIZED, Holder, alike

__all__ = ["Guards"]


class Guards:
    """The values a graph was recorded under, compared with the present ones in microseconds."""

    def __init__(self) -> None:
        self._places: list[tuple[Holder, Any]] = []
        self._sources: list[Any] = []
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._cells: list[tuple[Holder, types.CellType]] = []
        self._contents: list[Any] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []
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
        """Guard the number of values of a list or dict."""
        self._sized.append(holder.at)
        self._sizes.append(len(holder.at))

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
        sizes = list(map(len, self._sized)) == self._sizes
        return sizes and list(map(contents_of, self._wholes)) == self._held

    def changed(self) -> list[tuple[Any, Any]] | None:
        """Return the former and present values that differ; None if a container's size has."""
        if not self._same_sizes():
            return None
        now = [holder.read(key) for holder, key in self._places]
        now += [holder.read("") for holder, _ in self._cells]
        pairs = zip((*self._values, *self._contents), now, strict=True)
        return [(then, value) for then, value in pairs if not alike(then, value)]

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


def _replaced(then: Sequence[Any], now: Sequence[Any]) -> dict[int, Any]:
    """Return the dicts and lists that have replaced others, by the ids of the former ones."""
    pairs = zip(then, now, strict=True)
    return {id(a): b for a, b in pairs if a is not b and isinstance(a, SIZED)}
