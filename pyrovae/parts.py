"""A part remembers how it was made, so that a run's folder can make it again.

Every network, prior, likelihood and guide of the library is a `Part`: a module whose constructor
arguments are recorded as plain JSON the moment it is created. `build` turns the record back into
the part by looking the class up among the parts that this process has defined; it imports
nothing and unpickles nothing, so a stranger's folder cannot run code.
"""

from __future__ import annotations

import abc
import inspect
import numbers
from typing import Any, ClassVar, Self

import torch


class Part(torch.nn.Module, abc.ABC):
    """Record the constructor's arguments of a module in `config`.

    A subclass needs to do nothing: a network, prior, likelihood or guide of your own that derives
    from `Part` is rebuilt by `pyrovae.load`, once its class has been defined.

    Example:
        >>> from pyrovae import nets, parts
        >>> nets.MLP(3, 4, 2).config["part"]
        'pyrovae.nets.MLP'
        >>> parts.build(nets.MLP(3, 4, 2).config).sizes
        (3, 4, 2)
    """

    config: dict[str, Any]
    _known: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter the class among those that `build` can make."""
        super().__init_subclass__(**kwargs)
        Part._known[_name(cls)] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the part and record `args` and `kwargs`."""
        part = super().__new__(cls)
        object.__setattr__(
            part,
            "config",
            {
                "part": _name(cls),
                "args": [describe(value) for value in args],
                "kwargs": {name: describe(value) for name, value in kwargs.items()},
            },
        )
        return part


def _name(part: type[Part]) -> str:
    """Return the public name of a class: a run outlives the file that its parts lie in."""
    package, *modules = part.__module__.split(".")
    shown = modules[:1] if package == "pyrovae" else modules
    return ".".join([package, *shown, part.__qualname__])


def describe(value: Any) -> Any:
    """Return the JSON record of a constructor's argument, or of a program.

    Numbers, strings, lists, parts and the classes of `torch.nn` (activations) can be built again.
    Anything else, such as a plain function, is recorded by its name as `{"custom": name}`.
    """
    if isinstance(value, Part):
        return value.config
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list):
        return [describe(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [describe(item) for item in value]}
    name: str = getattr(value, "__qualname__", type(value).__qualname__)
    if getattr(torch.nn, name, None) is value:
        return {"torch.nn": name}
    return {"custom": name}


def is_known(config: Any) -> bool:
    """Tell whether a record names nothing but what the library itself defines.

    Example:
        >>> from pyrovae import nets
        >>> is_known(nets.MLP(3, 2).config), is_known(describe(print))
        (True, False)
    """
    if isinstance(config, list):
        return all(map(is_known, config))
    if not isinstance(config, dict):
        return True
    own = "custom" in config or not str(config.get("part", "pyrovae.")).startswith("pyrovae.")
    return not own and all(map(is_known, config.values()))


def build(config: Any) -> Any:
    """Make again what `describe` recorded.

    Raises:
        ValueError: if the record names a program of the user's own, or a class that this process
            has not defined.
    """
    if isinstance(config, list):
        return [build(item) for item in config]
    if not isinstance(config, dict):
        return config
    if "tuple" in config:
        return tuple(build(item) for item in config["tuple"])
    if "torch.nn" in config:
        return _activation(config["torch.nn"])
    if "part" in config:
        return _part(config)
    raise ValueError(f"'{config.get('custom', config)}' is a program of your own: pass it in")


def _activation(name: str) -> type[torch.nn.Module]:
    found = getattr(torch.nn, name, None)
    if not (inspect.isclass(found) and issubclass(found, torch.nn.Module)):
        raise ValueError(f"torch.nn has no module '{name}': was the run made by another torch?")
    return found


def _part(config: dict[str, Any]) -> Part:
    name = config["part"]
    if name not in Part._known:
        raise ValueError(
            f"no part '{name}' is defined in this process: import the module that defines it, "
            "or pass the part in"
        )
    args = [build(value) for value in config["args"]]
    kwargs = {key: build(value) for key, value in config["kwargs"].items()}
    return Part._known[name](*args, **kwargs)
