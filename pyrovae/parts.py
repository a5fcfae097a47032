"""Record how a module was constructed, so that a saved run can rebuild it.

Every network, prior, likelihood and guide of the library is a `Part`: a module that records its
constructor arguments as plain JSON when it is created. `build` turns the record back into the
part. It looks the class up among the subclasses of `Part` that this process has defined; it
imports nothing and unpickles nothing, so loading a run cannot execute foreign code. A part that
is used in several places, such as a guide that a prior shares, has a number in its record and is
built once.
"""

from __future__ import annotations

import abc
import inspect
import numbers
from collections import Counter
from typing import Any, ClassVar, Self

import torch

__all__ = ["Part", "as_call", "build", "describe", "describe_together", "is_known"]


class Part(torch.nn.Module, abc.ABC):
    """Record the constructor arguments of a module as its `config`.

    Subclasses need no extra code. `pyrovae.load` rebuilds any network, prior, likelihood or guide
    that derives from `Part`, provided that its class has been defined.

    Example:
        >>> from pyrovae import nets, parts
        >>> nets.MLP(3, 4, 2).config["part"]
        'pyrovae.nets.MLP'
        >>> parts.build(nets.MLP(3, 4, 2).config).sizes
        (3, 4, 2)
    """

    _record: dict[str, Any]
    _known: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class, so that `build` finds it."""
        super().__init_subclass__(**kwargs)
        Part._known[_name(cls)] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the part and record `args` and `kwargs`."""
        part = super().__new__(cls)
        object.__setattr__(
            part,
            "_record",
            {
                "part": _name(cls),
                "args": [_recorded(value) for value in args],
                "kwargs": {name: _recorded(value) for name, value in kwargs.items()},
            },
        )
        return part

    @property
    def config(self) -> dict[str, Any]:
        """The JSON record of the part."""
        record: dict[str, Any] = _numbered(self._record)
        return record


def _name(part: type[Part]) -> str:
    """Return the public name of a class, which does not depend on the file it is defined in."""
    package, *modules = part.__module__.split(".")
    shown = modules[:1] if package == "pyrovae" else modules
    return ".".join([package, *shown, part.__qualname__])


def describe(value: Any) -> Any:
    """Return the JSON record of a constructor argument or of a program.

    `build` rebuilds numbers, strings, lists, parts and classes of `torch.nn` (activations).
    Anything else, such as a plain function, is recorded by name as `{"custom": name}`.
    """
    return _numbered(_recorded(value))


def describe_together(**values: Any) -> dict[str, Any]:
    """Return the JSON records of several values; a part that they share has the same number.

    Example:
        >>> from pyrovae import nets
        >>> from pyrovae.parts import describe_together
        >>> shared = nets.MLP(3, 2)
        >>> {role: c.get("shared") for role, c in describe_together(a=shared, b=shared).items()}
        {'a': 1, 'b': 1}
    """
    record: dict[str, Any] = _numbered({name: _recorded(value) for name, value in values.items()})
    return record


def _recorded(value: Any) -> Any:
    """Return the record of a value; the same part yields the same dictionary object."""
    if isinstance(value, Part):
        return value._record
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list):
        return [_recorded(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_recorded(item) for item in value]}
    name: str = getattr(value, "__qualname__", type(value).__qualname__)
    if getattr(torch.nn, name, None) is value:
        return {"torch.nn": name}
    return {"custom": name}


def _numbered(record: Any) -> Any:
    """Copy a record and number each part that occurs more than once in it."""
    places: Counter[int] = Counter()
    _count_places(record, places)
    shared = [identity for identity, count in places.items() if count > 1]

    def copied(value: Any) -> Any:
        if isinstance(value, list):
            return [copied(item) for item in value]
        if not isinstance(value, dict):
            return value
        number = {"shared": 1 + shared.index(id(value))} if id(value) in shared else {}
        return {**{name: copied(item) for name, item in value.items()}, **number}

    return copied(record)


def _count_places(record: Any, places: Counter[int]) -> None:
    """Count the occurrences of each part; the inside of a part is counted once."""
    if isinstance(record, dict) and "part" in record:
        places[id(record)] += 1
        if places[id(record)] > 1:
            return
    inside = record.values() if isinstance(record, dict) else record
    for item in inside if isinstance(record, dict | list) else ():
        _count_places(item, places)


def as_call(record: Any) -> str:
    """Return the record of a part as a constructor call, with the last part of each name.

    Example:
        >>> from pyrovae import nets
        >>> from pyrovae.parts import as_call, describe
        >>> as_call(nets.MLP(3, 4, 2).config), as_call(describe(print))
        ('MLP(3, 4, 2)', 'print')
    """
    if isinstance(record, list):
        return f"[{', '.join(map(as_call, record))}]"
    if not isinstance(record, dict):
        return str(record)
    if "tuple" in record:
        return f"({', '.join(map(as_call, record['tuple']))})"
    if "part" in record:
        given = [*map(as_call, record["args"])]
        given += [f"{name}={as_call(value)}" for name, value in record["kwargs"].items()]
        return f"{record['part'].rpartition('.')[2]}({', '.join(given)})"
    return str(record.get("torch.nn") or record.get("custom") or record)


def is_known(config: Any) -> bool:
    """Return whether a record contains only parts that the library defines.

    Example:
        >>> from pyrovae import nets
        >>> from pyrovae.parts import describe, is_known
        >>> is_known(nets.MLP(3, 2).config), is_known(describe(print))
        (True, False)
    """
    if isinstance(config, list):
        return all(map(is_known, config))
    if not isinstance(config, dict):
        return True
    own = "custom" in config or not str(config.get("part", "pyrovae.")).startswith("pyrovae.")
    return not own and all(map(is_known, config.values()))


def build(config: Any, shared: dict[int, Part] | None = None) -> Any:
    """Rebuild what `describe` recorded.

    Args:
        config: the record.
        shared: parts that already exist, by their numbers; parts that are built are added.

    Raises:
        ValueError: if the record contains a program that is not a `Part`, or a class that this
            process has not defined.
    """
    shared = {} if shared is None else shared
    if isinstance(config, list):
        return [build(item, shared) for item in config]
    if not isinstance(config, dict):
        return config
    if "tuple" in config:
        return tuple(build(item, shared) for item in config["tuple"])
    if "torch.nn" in config:
        return _activation(config["torch.nn"])
    if "part" in config:
        return _part(config, shared)
    raise ValueError(f"'{config.get('custom', config)}' is not a pyrovae.parts.Part: pass it in")


def _activation(name: str) -> type[torch.nn.Module]:
    found = getattr(torch.nn, name, None)
    if not (inspect.isclass(found) and issubclass(found, torch.nn.Module)):
        raise ValueError(
            f"torch.nn has no module '{name}': was the run made with another version of torch?"
        )
    return found


def _part(config: dict[str, Any], shared: dict[int, Part]) -> Part:
    name, number = config["part"], config.get("shared")
    if number in shared:
        return shared[number]
    if name not in Part._known:
        raise ValueError(
            f"no part '{name}' is defined in this process: import the module that defines it, or "
            "pass the part in"
        )
    args = [build(value, shared) for value in config["args"]]
    kwargs = {key: build(value, shared) for key, value in config["kwargs"].items()}
    part = Part._known[name](*args, **kwargs)
    if number is not None:
        shared[number] = part
    return part
