"""Convert a table of an experiment to the arguments of a part's constructor."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from torch import nn

from pyrovae.cli import names

__all__ = [
    "activation",
    "arguments",
    "convert",
    "keywords",
    "listed",
    "parameters",
    "required",
]

NESTED: Final = {
    "levels": ("Hierarchical", "a list of tables, a prior's from the top level down"),
    "parts": ("Joint", "a table of tables by the names of their sites"),
    "groups": ("Columns", "a list of tables, each with its columns"),
}
"""The class that takes each entry of nested tables, and what the entry is."""

FORMS: Final = {
    "levels": '[[{role}.levels]] in a file, or --{role}.levels \'[{{name = "...", latents = 2}}, '
    "...]'",
    "parts": "[{role}.parts.SITE] in a file, or --{role}.parts.SITE NAME",
    "groups": "[[{role}.groups]] in a file",
}
"""How each entry of nested tables is written."""

Table = Mapping[str, Any]


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's `__init__`, by name.

    Some releases of Python show those of `__new__` for the class itself.

    Example:
        >>> import pyrovae as pv
        >>> list(pv.cli.arguments.parameters(pv.priors.VampPrior))
        ['guide', 'components']
    """
    found = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return dict(list(found.items())[1:])


def arguments(
    kind: type, table: Table, where: str, derived: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a constructor from a table and from derived values.

    Args:
        kind: the class.
        table: the entries. `name` is ignored, and so is `latents` if the class does not take it.
        where: the name of the table, for error messages.
        derived: arguments that are derived from the rest of the experiment.

    Raises:
        ValueError: naming the entry, if it is unknown, has the wrong type or is missing.
    """
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    taken = {
        name: parameter
        for name, parameter in parameters(kind).items()
        if hints.get(name) is not nn.Module
    }
    entries = {key: value for key, value in table.items() if key not in ("name", "latents", "net")}
    if "latents" in taken and "latents" in table:
        entries["latents"] = table["latents"]
    found = {name: value for name, value in (derived or {}).items() if name in taken}
    for key, value in entries.items():
        if key not in taken and key in NESTED:
            owner = NESTED[key][0]
            raise ValueError(
                f"{where} {kind.__name__} takes no {key}, which are of {owner}: give the name "
                f'too, name = "{owner}" in [{where}] or --{where} {owner}'
            )
        if key not in taken or isinstance(found.get(key), nn.Module):
            raise ValueError(f"{where} {kind.__name__}: {names.unknown('argument', key, taken)}")
        found[key] = convert(value, hints[key], f"{where}.{key}")
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in found:
            raise ValueError(f"{where} {kind.__name__} needs {name}: --{where}.{name}")
    return found


def convert(value: Any, kind: Any, where: str) -> Any:
    """Convert a value to the type of an argument.

    Raises:
        ValueError: naming the entry, if the value has the wrong type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at")[0]
        raise ValueError(f"--{where}: {what[0].lower()}{what[1:]}; got {value!r}") from None


def required(table: Table, key: str, where: str) -> Any:
    """Return an entry that is a nested table.

    Raises:
        ValueError: if it is missing.
    """
    if not table.get(key):
        raise ValueError(f"{where} needs {key}, {_nested(key, where)}")
    return table[key]


def listed(table: Table, key: str, where: str) -> list[Any]:
    """Return an entry that is a list of tables.

    Raises:
        ValueError: if it is missing or not a list.
    """
    found = required(table, key, where)
    if not isinstance(found, list):
        how = f": {_nested(key, where)}" if key in NESTED else ""
        raise ValueError(f"{where} takes {key}, a list of tables; got {found!r}{how}")
    return found


def _nested(key: str, where: str) -> str:
    """Return what an entry of nested tables is, and how it is written."""
    if key not in NESTED:
        return "a nested table"
    return f"{NESTED[key][1]}: {FORMS[key].format(role=where.partition(' ')[0])}"


def keywords(kind: type, given: Table) -> dict[str, Any]:
    """Return the keyword-only arguments of a perceptron, whose widths are positional.

    Raises:
        ValueError: if an entry is unknown.
    """
    taken = parameters(kind)
    known = [name for name, parameter in taken.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for key in given:
        if key not in ("name", *known):
            said = names.unknown("argument", key, ["hidden", *known])
            raise ValueError(f"net {kind.__name__}: {said}")
    return {key: given[key] for key in known if key in given}


def activation(name: Any) -> type[nn.Module]:
    """Return the activation class of `torch.nn` with this name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> activation("Tanh")
        <class 'torch.nn.modules.activation.Tanh'>
    """
    known = nn.modules.activation.__all__
    if name not in known:
        raise ValueError(names.unknown("activation", str(name), known))
    found: type[nn.Module] = getattr(nn, name)
    return found
