"""Find what code refers to by name, and tell a user's objects from a library's."""

from __future__ import annotations

import dis
import sys
import types
from typing import Any, Final

import torch
from torch import nn

from pyrovae.graphs.contents import RECORDS

__all__ = ["imported_by", "is_followed", "is_library", "names_in", "of_library", "title_of"]

_OPAQUE: Final = frozenset({"torch", "numpy", *sys.stdlib_module_names})
"""Packages whose objects are not followed, but for those of torch that hold a user's values."""

# The code of the others is constant, but their objects, as a fitted scaler, hold a user's numbers.
_LIBRARIES: Final = _OPAQUE | {
    *("pyro", "pyrovae", "scipy", "sklearn", "pandas", "polars", "pyarrow", "narwhals", "anndata"),
}
_OF_TORCH: Final = (
    nn.Module,
    torch.distributions.Distribution,
    torch.distributions.Transform,
)
_IMPORT: Final = dis.opmap["IMPORT_NAME"]


def is_followed(value: Any) -> bool:
    """Tell whether the attributes of an object are followed: those of the user's objects are."""
    if isinstance(value, RECORDS):
        return True
    package, _, rest = _name_of(type(value).__module__).partition(".")
    if package == "pyro":
        return not rest.startswith(("poutine.trace_struct", "params", "optim"))
    if package == "torch":
        return isinstance(value, _OF_TORCH)
    return package not in _OPAQUE


def is_library(value: Any) -> bool:
    """Tell whether a function or class is a library's, which is taken to be constant."""
    return isinstance(value, type | types.FunctionType) and of_library(value.__module__)


def of_library(module: Any) -> bool:
    """Tell whether a module, by the `__module__` of what it defines, belongs to a library."""
    return _name_of(module).partition(".")[0] in _LIBRARIES


def _name_of(module: Any) -> str:
    """Return the name of a module. Compiled classes may have a descriptor in its place."""
    return module if isinstance(module, str) and module else "builtins"


def names_in(code: types.CodeType) -> set[str]:
    """Return the globals, attributes and strings that are identifiers in code and nested code."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    words = {w for w in code.co_consts if isinstance(w, str) and w.isidentifier()}
    return words.union(code.co_names, *map(names_in, inner))


def imported_by(code: types.CodeType, package: str | None) -> list[Any]:
    """Return the modules that code imports when it runs."""
    steps = zip(code.co_code[::2], code.co_code[1::2], strict=True)
    named = [code.co_names[i] for step, i in steps if step == _IMPORT and i < len(code.co_names)]
    found = [sys.modules.get(name) for name in named]
    found += [sys.modules.get(f"{package}.{name}".rstrip(".")) for name in named if package]
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return found + [module for code in inner for module in imported_by(code, package)]


def title_of(value: Any) -> str:
    """Return the name of a function or class, or of an object's class."""
    named = getattr(value, "__qualname__", type(value).__name__)
    return str(named).rpartition("<locals>.")[2]
