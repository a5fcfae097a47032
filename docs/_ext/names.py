"""What a name in backticks means in the module that uses it."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from public import modules, spelling

MISSING = object()


def resolve(dotted: str, scope: Any = None) -> str | None:
    """Return the public name of what a name means in the module of an object, None if nothing.

    A bare name of an argument of the object, or of a module, means no object.
    """
    if dotted in _arguments(scope):
        return None
    home = inspect.getmodule(scope) if scope is not None else None
    for space in [home, *modules().values()]:
        found = _within(space, dotted.split("."))
        if found:
            return found
    return None


def _within(space: Any, parts: list[str]) -> str | None:
    owner, value = None, space
    for part in parts:
        owner, value = value, getattr(value, part, MISSING)
    if value is MISSING or (inspect.ismodule(value) and len(parts) == 1):
        return None
    public = spelling(value)
    if public is None and inspect.isclass(owner) and spelling(owner) and _shown(owner, parts[-1]):
        return f"{spelling(owner)}.{parts[-1]}"
    return public


def _arguments(scope: Any) -> set[str]:
    try:
        return set(inspect.signature(scope).parameters)
    except (TypeError, ValueError):
        return set()


def _shown(owner: type, member: str) -> bool:
    """Return whether the reference has a member: it is the class's own, and has a docstring."""
    value = vars(owner).get(member)
    described = inspect.isroutine(value) or isinstance(value, property | functools.cached_property)
    return member[0] != "_" and described and bool(value.__doc__)
