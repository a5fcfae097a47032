"""The public names of the package, and the page of the reference on which each stands.

A name is public if the table in `pyrovae/__init__.pyi` has it, or if it is in `__all__` of a
module that is public itself. It is documented under its shortest spelling, `pyrovae.evaluate` or
`pyrovae.bounds.iwae`, on the page of the folder in which it is defined. What public names take and
return, and what these do, is documented as well, under its full name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyrovae

ROOT = Path(pyrovae.__file__).parent


class Public(NamedTuple):
    """A documented object: its shortest name, the object, and the module that defines it."""

    name: str
    value: Any
    module: str

    @property
    def holder(self) -> str:
        """The module or class that has it, as it is spelled."""
        return self.name.rpartition(".")[0]

    @property
    def page(self) -> str:
        """The folder of the package in which it is defined, or "pyrovae" at the top."""
        top = self.module.split(".")[1:2]
        return top[0] if top and (ROOT / top[0]).is_dir() else "pyrovae"


@functools.cache
def modules() -> dict[str, ModuleType]:
    """Return every public module under its shortest name, shortest names first."""
    found = {"pyrovae": pyrovae, "pyrovae.types": importlib.import_module("pyrovae.types")}
    rest = ["pyrovae"]
    while rest:
        name = rest.pop(0)
        for member in found[name].__all__:
            value = getattr(found[name], member)
            if isinstance(value, ModuleType) and value not in found.values():
                found[f"{name}.{member}"] = value
                rest.append(f"{name}.{member}")
    return found


@functools.cache
def everything() -> tuple[Public, ...]:
    """Return every documented object once, the public names first."""
    found: dict[Any, Public] = {}
    for name, module in modules().items():
        for member in module.__all__:
            value = getattr(module, member)
            if not isinstance(value, ModuleType):
                item = Public(f"{name}.{member}", value, _defined_in(value, module))
                found.setdefault(_key(item), item)
    rest = list(found.values())
    met = [*_exceptions().values(), *(kind for item in rest for kind in _mentioned(item))]
    while met:
        kind = met.pop(0)
        item = Public(f"{kind.__module__}.{kind.__qualname__}", kind, kind.__module__)
        if _key(item) not in found:
            found[_key(item)] = item
            met += _mentioned(item)
    return tuple(found.values())


def spelling(value: Any) -> str | None:
    """Return the name under which an object or module is documented, None if it is not."""
    if isinstance(value, ModuleType):
        return next((name for name, module in modules().items() if module is value), None)
    return _names().get(id(value))


@functools.cache
def _names() -> dict[int, str]:
    return {id(item.value): item.name for item in everything() if callable(item.value)}


def _key(item: Public) -> Any:
    """Return what two spellings share: the object, or for constants the name in its module."""
    if callable(item.value):
        return id(item.value)
    return item.module, item.name.rpartition(".")[2]


def _defined_in(value: Any, module: ModuleType) -> str:
    name = getattr(value, "__module__", "") or ""
    return name if name.startswith("pyrovae") else module.__name__


def _mentioned(item: Public) -> Iterator[type]:
    """Yield the classes of the package in the annotations and the docstring of an object."""
    home = vars(inspect.getmodule(item.value) or object)
    texts = [_annotations(item.value), *_raised(item.value.__doc__ or "")]
    if inspect.isclass(item.value):
        held = vars(item.value).items()
        own = [value for name, value in held if name[0] != "_" or name == "__call__"]
        texts += [
            _annotations(getattr(value, "fget", value)) for value in [*own, item.value.__init__]
        ]
        texts += [base.__name__ for base in item.value.__bases__]
    for word in re.findall(r"\w+", " ".join(texts)):
        met = home.get(word) or _exceptions().get(word)
        if inspect.isclass(met) and met.__module__.startswith("pyrovae") and word[0] != "_":
            yield met


def _raised(docstring: str) -> list[str]:
    """Return the names of the exceptions in the section of a docstring."""
    section = re.search(r"Raises:\n((?: +.*\n)*)", docstring)
    return re.findall(r"(?m)^ +(\w+): ", section[1]) if section else []


@functools.cache
def _exceptions() -> dict[str, type]:
    """Return the exceptions of the package, which a function may raise far below its own file."""
    bases = ArithmeticError, RuntimeError, ValueError
    own = [kind for base in bases for kind in base.__subclasses__()]
    return {kind.__name__: kind for kind in own if kind.__module__.startswith("pyrovae")}


def _annotations(value: Any) -> str:
    return " ".join(map(str, getattr(value, "__annotations__", {}).values()))
