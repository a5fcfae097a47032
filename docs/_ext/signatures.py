"""Show signatures with the annotations that the source has, each name a link.

Sphinx would show what an alias such as `Data` stands for, which takes four lines.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_origin

from public import everything, spelling
from sphinx.application import Sphinx

NAME = re.compile(r"(?<![\w.'\"])[A-Za-z_][\w.]*(?![\w.'\"])")


def shown(obj: Any) -> tuple[str, str] | None:
    """Return the arguments and the result of what is called, None if there is no signature."""
    called: Callable[..., Any] = obj.__init__ if inspect.isclass(obj) else obj
    try:
        signature = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    home = getattr(inspect.unwrap(called), "__globals__", {})
    if "dataclasses" in home.get("__name__", "dataclasses"):
        home = vars(inspect.getmodule(obj))
    parameters = [
        parameter.replace(
            annotation=_annotation(parameter, home), default=_default(parameter, obj)
        )
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    result = signature.return_annotation
    returned = "" if result is signature.empty or inspect.isclass(obj) else _linked(result, home)
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return str(plain), returned


def _annotation(parameter: inspect.Parameter, home: dict[str, Any]) -> Any:
    empty = parameter.annotation is parameter.empty
    return parameter.empty if empty else _Text(_linked(parameter.annotation, home))


def _default(parameter: inspect.Parameter, obj: Any) -> Any:
    """Return a default as source: a class or function by its name, a fresh one as its call."""
    default = parameter.default
    if "<" not in repr(default) or default is parameter.empty:
        return default
    fields = getattr(obj, "__dataclass_fields__", {})
    made = getattr(fields.get(parameter.name), "default_factory", None)
    if hasattr(made, "__name__"):
        return _Text(f"{made.__name__}()" if made.__name__ != "<lambda>" else "...")
    return _Text(getattr(default, "__name__", "..."))


class _Text:
    """What `inspect` prints as it stands."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _linked(annotation: Any, home: dict[str, Any]) -> str:
    """Return an annotation with the full name of each thing, `~` telling to show the last part."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"(?:typing\.)?Annotated\[(\w+), [^\]]*\]", r"\1", text)
    return NAME.sub(lambda found: _full(found[0], home), text)


def _full(name: str, home: dict[str, Any]) -> str:
    parts = name.split(".")
    value = home.get(parts[0])
    for part in parts[1:]:
        value = getattr(value, part, None)
    if value is None:
        return name
    public = spelling(value) or _alias(parts[-1], value)
    if public is None and _expanded(value):
        return NAME.sub(lambda found: "~" * ("." in found[0]) + found[0], _none(repr(value)))
    if public or not hasattr(value, "__qualname__") or value.__module__ == "builtins":
        return f"~{public}" if public else name
    return f"~{value.__module__}.{value.__qualname__}"


def _expanded(value: Any) -> bool:
    """Return whether to show what an alias stands for: one of a few plain types."""
    plain = get_origin(value) is not None and not getattr(value, "__parameters__", ())
    return plain and "Annotated" not in repr(value)


def _none(text: str) -> str:
    return text.replace("NoneType", "None")


def _alias(name: str, value: Any) -> str | None:
    """Return the public name of an alias of a type, which is no object of its own."""
    found = [
        item.name
        for item in everything()
        if item.name.endswith(f".{name}") and item.value is value
    ]
    return found[0] if found else None


def process(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, str] | None:
    """Give autodoc the signature of a function, a method or a class."""
    return shown(obj) if what in ("class", "exception", "function", "method") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Write signatures as the source has them."""
    app.connect("autodoc-process-signature", process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
