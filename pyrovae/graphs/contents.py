"""Read and restore state that no attribute holds: slots, arrays, sets, generators and files.

A value under a key is guarded by its identity. The contents of an array or a set are compared by
value, and so are the state of a random generator and the position of a file.
"""

from __future__ import annotations

import argparse
import array
import collections
import collections.abc
import contextlib
import contextvars
import functools
import gc
import io
import logging
import os
import queue
import random
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.utils.data

from pyrovae.randomness import state_of

__all__ = [
    "GENERATORS",
    "RECORDS",
    "WHOLES",
    "Attributes",
    "Present",
    "contents_of",
    "detect_output",
    "leads_to",
    "restore_contents",
    "slots_of",
]

RECORDS: Final = (
    argparse.Namespace,
    types.SimpleNamespace,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
    threading.local,
    type(os.environ),
    queue.Queue,
    torch.utils.data.Dataset,
    functools.partialmethod,
    functools.singledispatchmethod,
)
"""Classes of the standard library and of torch whose objects hold a user's values."""

GENERATORS: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
WHOLES: Final = (
    np.ndarray,
    set,
    bytearray,
    array.array,
    contextvars.ContextVar,
    functools._lru_cache_wrapper,
)
"""Classes whose objects are compared by their contents."""

_VIEWS: Final = (types.MappingProxyType, collections.abc.MappingView)
"""Views of a dict, which name it to nothing but the garbage collector."""

_FEW: Final = 1000
"""The largest array that is restored number by number."""

_MANY: Final = 100_000
"""The largest array that is compared number by number."""


class Attributes:
    """Read the attributes of an object, slots included, as items."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getitem__(self, name: str) -> Any:
        """Return an attribute."""
        try:
            return getattr(self._of, name)
        except AttributeError:
            raise KeyError(name) from None


class Present:
    """Read the items of a dict without calling its `__missing__`."""

    def __init__(self, of: dict[Any, Any]) -> None:
        self._of = of

    def __getitem__(self, key: Any) -> Any:
        """Return an item."""
        if key not in self._of:
            raise KeyError(key)
        return self._of[key]


def slots_of(value: Any) -> list[str]:
    """Return the names of the slots of an object that have values."""
    named = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for slots in named for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__") and hasattr(value, name)]


def contents_of(value: Any) -> Any:
    """Return the contents of an array or set, or the state of a generator or file.

    The result can be compared by `==`. An array of more than 100,000 numbers is sampled at about
    1000 places.
    """
    if isinstance(value, GENERATORS):
        return state_of(value)
    if isinstance(value, np.ndarray):
        few = value if value.size <= _MANY else value.flat[:: value.size // _FEW]
        return few.tobytes()
    if isinstance(value, functools._lru_cache_wrapper):
        return value.cache_info()[1:]
    if isinstance(value, contextvars.ContextVar):
        return value.get(None)
    if isinstance(value, io.IOBase):
        return _position(value)
    return frozenset(value) if isinstance(value, set) else bytes(value)


def restore_contents(whole: Any, held: Any) -> None:
    """Restore the contents of a set or a small array; clear a cache that has changed."""
    if isinstance(whole, functools._lru_cache_wrapper) and contents_of(whole) != held:
        whole.cache_clear()
    if isinstance(whole, set) and whole != held:
        whole.clear()
        whole.update(held)
    elif isinstance(whole, np.ndarray) and whole.size <= _FEW and whole.dtype != object:
        if whole.tobytes() != held:
            whole[...] = np.frombuffer(held, whole.dtype).reshape(whole.shape)


def leads_to(value: Any) -> Sequence[Any]:
    """Return what an object refers to that no attribute shows, as the members of a set."""
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, _VIEWS):
        return gc.get_referents(value)
    if isinstance(value, memoryview):
        return [value.obj]
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else ()
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
        return [value.__self__]
    wrapped = isinstance(value, functools._lru_cache_wrapper)
    return [value.__wrapped__] if wrapped else ()


class _DetectWrites:
    """A stream that notes whether it is written to."""

    def __init__(self, stream: Any, said: list[str]) -> None:
        self._stream, self._said = stream, said

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "writelines") and not self._said:
            self._said.append("what is printed")
        return getattr(self._stream, name)


@contextlib.contextmanager
def detect_output() -> Iterator[list[str]]:
    """Yield a list that is filled once the block prints or logs."""
    said: list[str] = []
    made = logging.getLogRecordFactory()

    def noted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        said.append("what is logged")
        return made(*args, **kwargs)

    logging.setLogRecordFactory(noted)
    stream: Any = _DetectWrites(sys.stdout, said)
    try:
        with contextlib.redirect_stdout(stream):
            yield said
    finally:
        logging.setLogRecordFactory(made)


def _position(file: io.IOBase) -> int | None:
    try:
        return file.tell()
    except (OSError, ValueError):
        return None
