"""The public names of the package, and the page of the reference on which each stands.

A name is public if the table in `pyrovae/__init__.pyi` has it, or if it is in `__all__` of a
module that is public itself. It is documented under its shortest spelling, `pyrovae.evaluate` or
`pyrovae.bounds.iwae`, on the page of the folder in which it is defined.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyrovae

ROOT = Path(pyrovae.__file__).parent


class Public(NamedTuple):
    """A public object: its shortest name, the object, and the module that defines it."""

    name: str
    value: Any
    module: str

    @property
    def page(self) -> str:
        """The folder of the package in which it is defined, or "pyrovae" at the top."""
        return page_of(self.module)


def page_of(module: str) -> str:
    """Return the folder at the top of the package that holds a module, or "pyrovae"."""
    top = module.split(".")[1:2]
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
    """Return every public object once, under its shortest name."""
    found: dict[Any, Public] = {}
    for name, module in modules().items():
        for member in module.__all__:
            value = getattr(module, member)
            if not isinstance(value, ModuleType):
                item = Public(f"{name}.{member}", value, _defined_in(value, module))
                found.setdefault(_key(item), item)
    return tuple(found.values())


def spelling(value: Any) -> str | None:
    """Return the public name of an object or module, None if it has none."""
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
