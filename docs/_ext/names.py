"""What a name in backticks means in the module that uses it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from public import modules, spelling

ELSEWHERE = {
    "ELBO": "pyro.infer.elbo.ELBO",
    "PyroOptim": "pyro.optim.optim.PyroOptim",
    "pyro.distributions.distribution.Distribution": "pyro.distributions.Distribution",
    "Optimizer": "torch.optim.Optimizer",
    "Tensor": "torch.Tensor",
    "torch._C.Generator": "torch.Generator",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    "numpy.random._generator.Generator": "numpy.random.Generator",
    "NDArray": "numpy.typing.NDArray",
    "nw.DataFrame": "narwhals.DataFrame",
    "nw.Series": "narwhals.Series",
}
"""Names of other projects as signatures have them, and as their sites do."""

INVENTORIES = Path(__file__).parents[1] / "inventories"
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


@functools.cache
def elsewhere(dotted: str) -> str | None:
    """Return the name of what another project has, as its site spells it; None if it has none."""
    full = dotted
    if dotted.partition(".")[0] in {name.partition(".")[0] for name in _inventories()}:
        with contextlib.suppress(ImportError, AttributeError):
            value = pkgutil.resolve_name(dotted)
            full = f"{value.__module__}.{value.__qualname__}"
    found = ELSEWHERE.get(dotted) or ELSEWHERE.get(full, full)
    return found if found in _inventories() else None


@functools.cache
def _inventories() -> frozenset[str]:
    lines = [line for path in INVENTORIES.glob("*.txt") for line in path.read_text().splitlines()]
    return frozenset(line.split()[0] for line in lines if line[:1] not in ("", "#"))


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
