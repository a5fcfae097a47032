"""Find the parameters in Pyro's store, and the modules that plain functions refer to.

A plain function keeps parameters in Pyro's store by `pyro.param` and `pyro.module`. A saved run
contains these parameters, and the buffers of the modules that the function refers to, such as the
running statistics of a batch normalization.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["Announced", "ParamSites", "StoredParameters", "aliased", "held_modules"]

MOST: Final = 1000
"""The size of a dict or a list above which it holds data, and no networks."""

_CONTAINERS: Final = (dict, list, tuple, types.SimpleNamespace)


class StoredParameters:
    """The parameters of param sites that are in Pyro's store, and in no part of the VAE.

    Attributes:
        met: the unconstrained tensors by name, from the latest param sites.
        waiting: the unconstrained values of a loaded run by name. Each is assigned at the first
            param site of its name, where its tensor and constraint are known.
        saved: the names in the loaded run; None if the VAE was not loaded.
    """

    def __init__(self) -> None:
        self.met: dict[str, Tensor] = {}
        self.waiting: dict[str, Tensor] = {}
        self.saved: frozenset[str] | None = None

    def values(self) -> dict[str, Tensor]:
        """Return copies of the unconstrained values by name, including those in `waiting`."""
        met = {name: tensor.detach().clone() for name, tensor in self.met.items()}
        return self.waiting | met

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the values of a loaded run, to be assigned at their param sites."""
        self.met, self.waiting, self.saved = {}, dict(values), frozenset(values)

    def meet(self, msg: Any, own: set[int]) -> None:
        """Record the parameter of a param site, and assign its value of a loaded run.

        Args:
            msg: the message of the site.
            own: the ids of the VAE's own parameters, which are ignored.

        Raises:
            ValueError: if the loaded run has no parameter of that name, or one of another shape.
        """
        name, tensor = msg["name"], _unconstrained(msg)
        if id(tensor) in own:
            return
        if self.saved is not None and name not in self.saved:
            raise ValueError(
                f"the programs have '{name}' in Pyro's store, but the loaded run has no value for "
                f"it, only for {sorted(self.saved)}: load the run with the programs it was "
                "trained with, and save a VAE only after its programs have run"
            )
        if name in self.waiting:
            tensor = self._put_back(msg, tensor)
        self.met[name] = tensor

    def _put_back(self, msg: Any, tensor: Tensor) -> Tensor:
        name, value, store = msg["name"], self.waiting[msg["name"]], pyro.get_param_store()
        # An earlier entry may have another module, shape or constraint.
        if store._params.get(name) is tensor and len(msg["args"]) > 1:
            del store[name]
            tensor = _unconstrained(msg)
        if tensor.shape != value.shape:
            raise ValueError(
                f"the run has '{name}' of Pyro's store in shape {tuple(value.shape)}, but the "
                f"program in shape {tuple(tensor.shape)}: load the run with programs of the same "
                "sizes"
            )
        with _disable_current_modes(), torch.no_grad():
            tensor.copy_(value)
        del self.waiting[name]
        # A Pyro module computes the constrained value before the message.
        if store._params.get(name) is not tensor:
            again = transform_to(msg["kwargs"]["constraint"])(tensor)
            msg["fn"] = lambda *_, **__: aliased(tensor, again)
        return tensor

    def __deepcopy__(self, memo: Any) -> StoredParameters:
        """Copy for a copy of the VAE, which shares Pyro's store."""
        copied = StoredParameters()
        copied.waiting, copied.saved = dict(self.waiting), self.saved
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return the values only, because parameters in Pyro's store cannot be pickled."""
        values = self.values()
        return {"met": {}, "waiting": values, "saved": frozenset(values)}


class Announced(Messenger):
    """Hide the param sites of a VAE's own parameters, and record those of Pyro's store.

    Args:
        own: the ids of the VAE's own parameters, for which the VAE sends param sites.
        stored: records the other parameters.
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
    """Return the unconstrained tensor of a param site, which the first site creates."""
    value = msg["fn"](*msg["args"], **msg["kwargs"])
    # A Pyro module sends its own torch parameter.
    if not hasattr(value, "unconstrained"):
        alias = aliased(value)
        msg["fn"] = lambda *_, **__: alias
        value = alias
    tensor: Tensor = value.unconstrained()
    return tensor


class ParamSites(Messenger):
    """Record the unconstrained leaf of each param site by name.

    A Pyro module whose parameters are local announces a layer's own, which is its leaf.

    Attributes:
        leaves: the leaf of the latest site of each name.
        hidden: the leaves of earlier sites of a name that has another since, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[str, Tensor] = {}
        self.hidden: list[tuple[str, Tensor]] = []

    def _pyro_post_param(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        before = self.leaves.get(name, leaf)
        if before is not leaf:
            self.hidden.append((name, before))
        self.leaves[name] = leaf

    def check(self, trained: Callable[[Tensor], bool]) -> None:
        """Check that no hidden leaf is trained: an optimizer would move the latest alone.

        A guide that is made in its first run announces parameters that it then replaces.

        Raises:
            ValueError: naming the site, if one is.
        """
        known = {id(leaf) for leaf in self.leaves.values()}
        for name, leaf in self.hidden:
            if id(leaf) not in known and trained(leaf):
                raise ValueError(
                    f"the programs announce two parameters as '{name}', of which an optimizer "
                    "would train one: Pyro modules with local parameters need attributes of "
                    "different names, such as `decoder` in the model and `encoder` in the guide"
                )


def aliased(parameter: Tensor, value: Tensor | None = None) -> Tensor:
    """Return the value of a param site, whose `unconstrained` returns the parameter.

    The attribute is set on an alias, since a parameter with it could not be pickled.

    Args:
        parameter: the unconstrained tensor.
        value: its constrained value; None if it is the parameter itself.
    """
    alias = parameter.detach() if value is None or value is parameter else value
    alias.unconstrained = lambda: parameter  # type: ignore[attr-defined]
    return alias


def held_modules(**programs: Any) -> dict[str, nn.Module]:
    """Return the modules that plain functions refer to, by name.

    The modules are in closures, defaults and globals that a function names, in arguments of a
    `functools.partial`, in attributes of a callable object or of a method's object, and in dicts,
    lists and namespaces that these hold.

    Args:
        **programs: the programs by role. Programs that are modules are left out.

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
    """Return the objects that a program, or a container that it holds, refers to, by name."""
    if isinstance(value, functools.partial):
        given = {str(i): part for i, part in enumerate(value.args)} | value.keywords
        return {"func": value.func} | given
    if isinstance(value, types.MethodType):
        owner = value.__self__
        held = {"self": owner} if isinstance(owner, nn.Module) else _attributes(owner)
        return held | {"func": value.__func__}
    if isinstance(value, types.FunctionType):
        return _named_by_function(value)
    if isinstance(value, dict | list | tuple):
        if len(value) > MOST:
            return {}
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {str(key): part for key, part in pairs if _leads_on(part)}
    if isinstance(value, types.SimpleNamespace) or callable(value):
        return {} if isinstance(value, type) else _attributes(value)
    return {}


def _named_by_function(value: types.FunctionType) -> dict[str, Any]:
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    named = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
    for name in _names(value.__code__):
        part = value.__globals__.get(name)
        own = getattr(part, "__globals__", None) is value.__globals__
        if own or isinstance(part, (nn.Module, *_CONTAINERS)):
            named[name] = part
    code, defaults = value.__code__, value.__defaults__ or ()
    last = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    return named | dict(zip(last, defaults, strict=True)) | (value.__kwdefaults__ or {})


def _attributes(owner: Any) -> dict[str, Any]:
    """Return the modules, and containers of some, among the attributes of an object."""
    kinds = (nn.Module, *_CONTAINERS)
    attributes = getattr(owner, "__dict__", {})
    return {name: part for name, part in attributes.items() if isinstance(part, kinds)}


def _leads_on(part: Any) -> bool:
    return callable(part) or isinstance(part, _CONTAINERS)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    """Return the names of globals in code and in the functions defined within it."""
    within = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, within))
