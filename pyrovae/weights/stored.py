"""What the programs of a VAE hold outside its modules: met as they run, saved, put back.

A plain function holds its parameters by `pyro.param` and `pyro.module`: they stay in Pyro's store,
and a run's folder has them beside those of the VAE's modules. It has the buffers, too, of the
modules that a function refers to, such as the statistics of a batch normalisation.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.utils._python_dispatch import _disable_current_modes


class StoredParameters:
    """What is known of the parameters that programs announce and no part of the VAE holds.

    Attributes:
        met: the unconstrained tensors by name, as the programs last announced them.
        waiting: unconstrained values of a run that was loaded, by name, until a program announces
            their names: only then are the constraint and the tensor known that take them.
        saved: the names that the run holds; None where the VAE was not loaded.
    """

    def __init__(self) -> None:
        self.met: dict[str, Tensor] = {}
        self.waiting: dict[str, Tensor] = {}
        self.saved: frozenset[str] | None = None

    def values(self) -> dict[str, Tensor]:
        """Return copies of the unconstrained values, those that wait included."""
        met = {name: tensor.detach().clone() for name, tensor in self.met.items()}
        return self.waiting | met

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take the values of a run, to give each to its parameter when a program announces it."""
        self.met, self.waiting, self.saved = {}, dict(values), frozenset(values)

    def meet(self, msg: Any, own: set[int]) -> None:
        """Remember the parameter of a message, after giving it the value that waits for it.

        Raises:
            ValueError: if the VAE was loaded and its run has no such parameter, or one of another
                shape.
        """
        name, tensor = msg["name"], _unconstrained(msg)
        if id(tensor) in own:
            return
        if self.saved is not None and name not in self.saved:
            raise ValueError(
                f"the programs keep '{name}' in Pyro's store, and the run that was loaded has no "
                f"value for it, only for {sorted(self.saved)}: give the programs it was trained "
                "with, and save a VAE once its programs have run"
            )
        if name in self.waiting:
            tensor = self._put_back(msg, tensor)
        self.met[name] = tensor

    def _put_back(self, msg: Any, tensor: Tensor) -> Tensor:
        name, value, store = msg["name"], self.waiting[msg["name"]], pyro.get_param_store()
        # An earlier entry may be of another module, shape or constraint.
        if store._params.get(name) is tensor and len(msg["args"]) > 1:
            del store[name]
            tensor = _unconstrained(msg)
        if tensor.shape != value.shape:
            raise ValueError(
                f"the run has '{name}' of Pyro's store in shape {tuple(value.shape)}; the program "
                f"wants {tuple(tensor.shape)}: the run was made with parts of another size"
            )
        with _disable_current_modes(), torch.no_grad():
            tensor.copy_(value)
        del self.waiting[name]
        if store._params.get(name) is not tensor:  # a Pyro module's, computed before the message
            again = transform_to(msg["kwargs"]["constraint"])(tensor)
            msg["fn"] = lambda *_, **__: aliased(tensor, again)
        return tensor

    def __deepcopy__(self, memo: Any) -> StoredParameters:
        """Return what a copy of the VAE needs: it shares Pyro's store with the first."""
        copied = StoredParameters()
        copied.waiting, copied.saved = dict(self.waiting), self.saved
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return the values alone: what Pyro keeps beside a parameter cannot be pickled."""
        values = self.values()
        return {"met": {}, "waiting": values, "saved": frozenset(values)}


class Announced(Messenger):
    """Hide what Pyro modules say of a VAE's own parameters, and meet those of Pyro's store.

    Args:
        own: the identities of the parameters that the VAE announces itself.
        stored: what keeps the others.
    """

    def __init__(self, own: set[int], stored: StoredParameters) -> None:
        super().__init__()
        self.own, self.stored = own, stored

    def _pyro_param(self, msg: Any) -> None:
        if any(id(argument) in self.own for argument in msg["args"]):
            msg["stop"] = True
        else:
            self.stored.meet(msg, self.own)


def _unconstrained(msg: Any) -> Tensor:
    """Return the tensor that an optimizer moves, made if this is the first announcement."""
    value = msg["fn"](*msg["args"], **msg["kwargs"])
    if not hasattr(value, "unconstrained"):  # a Pyro module announces torch's parameters bare
        alias = aliased(value)
        msg["fn"] = lambda *_, **__: alias
        value = alias
    tensor: Tensor = value.unconstrained()
    return tensor


def aliased(parameter: Tensor, value: Tensor | None = None) -> Tensor:
    """Return what a `param` message carries: a value, or an alias, that knows the parameter.

    Nothing is left on the parameter itself: an attribute there would keep it from being pickled.
    """
    alias = parameter.detach() if value is None or value is parameter else value
    alias.unconstrained = lambda: parameter  # type: ignore[attr-defined]
    return alias


def held_modules(**programs: Any) -> dict[str, nn.Module]:
    """Return the modules that plain functions hold, by the names that the functions call them.

    They are found among closures, the globals that a function names, arguments of a
    `functools.partial` and attributes of a method's object. A program that is a module is left
    out: it holds its own.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> list(held_modules(likelihood=lambda z, x=None: net(z)))
        ['likelihood.net']
    """
    found: dict[str, nn.Module] = {}
    waiting = [(role, part) for role, part in programs.items() if not isinstance(part, nn.Module)]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[name] = value
        else:
            waiting += [(f"{name}.{key}", part) for key, part in _named_by(value).items()]
    return dict(sorted(found.items()))


def _named_by(value: Any) -> dict[str, Any]:
    """Return what a function, or a part of one, refers to by name."""
    if isinstance(value, functools.partial):
        given = {str(i): part for i, part in enumerate(value.args)} | value.keywords
        return {"func": value.func} | given
    if isinstance(value, types.MethodType):
        owner = value.__self__
        held = {"self": owner} if isinstance(owner, nn.Module) else _modules_in(owner)
        return held | {"func": value.__func__}
    if not isinstance(value, types.FunctionType):
        return {}
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    named = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
    for name in _names(value.__code__):
        part = value.__globals__.get(name)
        own = getattr(part, "__globals__", None) is value.__globals__
        if isinstance(part, nn.Module) or own:
            named[name] = part
    return named


def _modules_in(owner: Any) -> dict[str, Any]:
    attributes = getattr(owner, "__dict__", {})
    return {name: part for name, part in attributes.items() if isinstance(part, nn.Module)}


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    """Return the global names in a function's code, and in the functions defined within it."""
    within = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, within))
