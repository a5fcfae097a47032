"""What an object holds where no attribute leads: in slots, arrays, sets, generators and files.

A value that stands under a key is watched there. What an array or a set holds is compared as a
whole, and so is where a generator or a file stands, which only a program that ran can move.
"""

from __future__ import annotations

import argparse
import array
import collections
import contextlib
import contextvars
import functools
import io
import logging
import os
import random
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch

from pyrovae.randomness import state_of

RECORDS: Final = (
    argparse.Namespace,
    types.SimpleNamespace,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
    threading.local,
    type(os.environ),
)
"""Classes of Python's library whose objects are a user's."""

GENERATORS: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
WHOLES: Final = (
    np.ndarray,
    set,
    bytearray,
    array.array,
    contextvars.ContextVar,
    functools._lru_cache_wrapper,
)
_FEW: Final = 1000


class Attributes:
    """The attributes of an object, its slots among them, by their names."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getitem__(self, name: str) -> Any:
        """Return an attribute."""
        try:
            return getattr(self._of, name)
        except AttributeError:
            raise KeyError(name) from None


class Present:
    """What a dict has under its keys, without the default that it would make for others."""

    def __init__(self, of: dict[Any, Any]) -> None:
        self._of = of

    def __getitem__(self, key: Any) -> Any:
        """Return what stands there."""
        if key not in self._of:
            raise KeyError(key)
        return self._of[key]


def slots_of(value: Any) -> list[str]:
    """Return the names of an object's slots that are filled."""
    named = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for slots in named for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__") and hasattr(value, name)]


def contents_of(value: Any) -> Any:
    """Return what a whole holds, or where a generator or file stands, as `==` compares it.

    Of an array of more than 1000 numbers, every so manieth is taken.
    """
    if isinstance(value, GENERATORS):
        return state_of(value)
    if isinstance(value, np.ndarray):
        few = value if value.size <= _FEW else value.flat[:: value.size // _FEW]
        return few.tobytes()
    if isinstance(value, functools._lru_cache_wrapper):
        return value.cache_info()[1:]
    if isinstance(value, contextvars.ContextVar):
        return value.get(None)
    if isinstance(value, io.IOBase):
        return _position(value)
    return frozenset(value) if isinstance(value, set) else bytes(value)


def restore(whole: Any, held: Any) -> None:
    """Give a set or a small array back what it held, and clear a cache that was filled."""
    if isinstance(whole, functools._lru_cache_wrapper) and contents_of(whole) != held:
        whole.cache_clear()
    if isinstance(whole, set) and whole != held:
        whole.clear()
        whole.update(held)
    elif isinstance(whole, np.ndarray) and whole.size <= _FEW and whole.dtype != object:
        if whole.tobytes() != held:
            whole[...] = np.frombuffer(held, whole.dtype).reshape(whole.shape)


def leads_to(value: Any) -> Sequence[Any]:
    """Return what a reference, a cached function or a bound method of Python's own leads to."""
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
        return [value.__self__]
    wrapped = isinstance(value, functools._lru_cache_wrapper)
    return [value.__wrapped__] if wrapped else ()


class _Overheard:
    """A stream that notes whether it is written to."""

    def __init__(self, stream: Any, said: list[str]) -> None:
        self._stream, self._said = stream, said

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "writelines") and not self._said:
            self._said.append("what is printed")
        return getattr(self._stream, name)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that names what a block prints or logs, once it does."""
    said: list[str] = []
    made = logging.getLogRecordFactory()

    def noted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        said.append("what is logged")
        return made(*args, **kwargs)

    logging.setLogRecordFactory(noted)
    stream: Any = _Overheard(sys.stdout, said)
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
