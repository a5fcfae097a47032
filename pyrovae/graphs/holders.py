"""Read, write and compare the values that a dict, list, cell, class or object holds."""

from __future__ import annotations

import collections
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import Any, Final

import torch
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor

from pyrovae.graphs.contents import Attributes, Present

__all__ = ["SIZED", "Holder", "Numbers", "Primitive", "alike", "is_number", "same_keys"]

Numbers = int | float
Primitive = bool | int | float | complex | str | bytes | None | torch.dtype | torch.device
SIZED: Final = (dict, list, collections.deque)
_GONE: Final = object()


@dataclass
class Holder:
    """A dict, list, closure cell, class or object with slots, and the values it held.

    Attributes:
        at: the dict, list, cell or class, or the object with slots.
        keys: the keys of the guarded values.
        where: its name in messages.
        own: whether it belongs to the user rather than to a library.
        values: the values that it held under the keys.
        size: the number of values of a dict or list; None for other holders.
        slots: whether the keys are slots, as the object may be a dict or list too.
    """

    at: Any
    keys: tuple[Any, ...]
    where: str
    own: bool
    values: tuple[Any, ...] = ()
    size: int | None = None
    slots: bool = False

    def holds(self) -> bool:
        """Tell whether it still holds the same objects."""
        return not self.grown() and all(map(is_, map(self.read, self.keys), self.values))

    def read(self, key: Any) -> Any:
        """Return the present value of a key, or a marker where there is none."""
        try:
            if isinstance(self.at, types.CellType):
                return self.at.cell_contents
            return self.source[key]
        except (KeyError, IndexError, ValueError):
            return _GONE

    @property
    def source(self) -> Any:
        """Return an object that gives the values as items."""
        if isinstance(self.at, type):
            return self.at.__dict__
        if self.slots or not isinstance(self.at, SIZED):
            return Attributes(self.at)
        return (
            Present(self.at) if isinstance(self.at, dict) and _makes_missing(self.at) else self.at
        )

    def write(self, key: Any, value: Any) -> None:
        """Set the value of a key."""
        if isinstance(self.at, types.CellType):
            self.at.cell_contents = value
        elif isinstance(self.at, type):
            setattr(self.at, key, value)
        elif isinstance(self.at, SIZED) and not self.slots:
            self.at[key] = value
        else:
            object.__setattr__(self.at, key, value)

    def changed(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield each key whose value has changed, with the former and the present value."""
        for key, then in zip(self.keys, self.values, strict=True):
            now = self.read(key)
            if now is not then and not alike(now, then):
                yield key, then, now

    def grown(self) -> bool:
        """Tell whether the number of values has changed."""
        return self.size is not None and len(self.at) != self.size

    def name(self, key: Any) -> str:
        """Return the name of a key in messages."""
        if isinstance(self.at, types.CellType):
            return self.where
        numbered = isinstance(self.at, list | collections.deque)
        return f"{self.where}[{key!r}]" if numbered else f"{self.where}.{key}"


def _makes_missing(held: dict[Any, Any]) -> bool:
    """Tell whether a dict makes missing values, as a defaultdict does."""
    return hasattr(type(held), "__missing__")


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values are equal numbers, strings or methods, or containers of them."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    if isinstance(one, Primitive | types.MethodType):
        return bool(one == other)
    if isinstance(one, dict):
        same = len(one) == len(other) and same_keys(other, tuple(one))
        return same and _all_alike(one.values(), other.values())
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and _all_alike(one, other)
    return isinstance(one, IndepMessenger) and alike(vars(one), vars(other))


def same_keys(held: dict[Any, Any], keys: tuple[Any, ...]) -> bool:
    """Tell whether a dict has keys in their order, of which it has as many."""
    return all(map(is_, held, keys)) or all(
        one is other or (isinstance(one, Primitive) and one == other)
        for one, other in zip(held, keys, strict=False)
    )


def _all_alike(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(
        alike(one, other) or (isinstance(one, Tensor) and _equal_small(one, other))
        for one, other in zip(some, others, strict=True)
    )


def _equal_small(one: Tensor, other: Any) -> bool:
    """Tell whether two small tensors are equal, as the indices of a plate."""
    if type(one) is not type(other) or one.numel() > 1000 or one.device != other.device:
        return False
    return one.dtype == other.dtype and torch.equal(one, other)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that could be an input of a graph."""
    return isinstance(value, Numbers) and not isinstance(value, bool)
