"""What Python holds that a graph would freeze: every value that a program can reach.

A recorded graph follows tensors. Numbers, objects and tensors that Python holds, in attributes,
closures, globals and containers, are read while it is recorded and never again. `Reach` finds the
places where they stand, from the programs on; a graph is used while each still holds the value
that it was recorded under, and a program that changes one of them as it runs is not recorded.
"""

from __future__ import annotations

import collections
import functools
import io
import os
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from torch import Tensor, nn

from pyrovae.graphs.contents import (
    GENERATORS,
    RECORDS,
    WHOLES,
    contents_of,
    leads_to,
    restore,
    slots_of,
)
from pyrovae.graphs.guards import Guards
from pyrovae.graphs.holders import SIZED, Holder, Primitive
from pyrovae.graphs.names import (
    imported_by,
    is_followed,
    is_library,
    names_in,
    of_library,
    title_of,
)
from pyrovae.randomness import STEPS

__all__ = ["MOST", "Reach"]

MOST: Final = 5000
"""How many objects are walked over; beyond it, only a step held beside Pyro's tells."""

_OF_MODULES: Final = frozenset(
    {
        "_non_persistent_buffers_set",
        "_is_full_backward_hook",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs",
    }
)
_CONTAINERS: Final = frozenset(
    {
        "_parameters",
        "_buffers",
        "_modules",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
    }
)
"""Of a module: they stay the same dicts, and their contents are watched."""


class Reach:
    """The places whose values a program can reach, as they stand now.

    From functions to their closures, defaults and the globals that they name; from objects to
    their attributes and classes; into lists, tuples and dicts. Globals and classes of libraries
    are taken to stay as they are.

    Example:
        >>> weight = 0.5
        >>> def program(x, weights=[1.0, 2.0]):
        ...     return weights[0] * x
        >>> reach = Reach([program])
        >>> program.__defaults__[0][0] = 3.0
        >>> [holder.name(key) for holder, key, *_ in reach.changed()]
        ['program.defaults[0][0]']
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self.roots = roots
        self.holders: list[Holder] = []
        self.parameters: list[Tensor] = []
        self.wholes: list[tuple[str, Any, Any]] = []
        self.iterators: list[str] = []
        self._seen: dict[int, Any] = {}
        self._modules: dict[int, tuple[types.ModuleType, set[str]]] = {}
        self._names: set[str] = set()
        self._waiting = collections.deque((root, title_of(root), False) for root in roots)
        while self._waiting:
            while self._waiting and len(self._seen) < MOST:
                self._visit(*self._waiting.popleft())
            if len(self._seen) < MOST:
                self._look_into_modules()
            else:
                break

    def changed(self) -> list[tuple[Holder, Any, Any, Any]]:
        """Return the holder, key, former and present value wherever they differ."""
        return [
            (holder, *change)
            for holder in self.holders
            if not holder.holds()
            for change in holder.changed()
        ]

    def disturbed(self) -> list[str]:
        """Name what a run of the program changed that replays of a graph would not.

        Tensors and objects that a library keeps beside, such as the cache of a transform, are
        made anew by each run and read by none after it.
        """
        found = [
            holder.name(key)
            for holder, key, then, now in self.changed()
            if holder.own or isinstance(then, Primitive) and isinstance(now, Primitive)
        ]
        found += [holder.where for holder in self.holders if holder.own and holder.grown()]
        found += [name for name, whole, then in self.wholes if contents_of(whole) != then]
        return list(dict.fromkeys(found))

    def renewed(self) -> Reach:
        """Return what the programs can reach now: itself if the very values stand."""
        return self if all(holder.holds() for holder in self.holders) else Reach(self.roots)

    def refilled(self) -> list[str]:
        """Name the arrays, sets and such that hold something else now."""
        return [
            name
            for name, whole, then in self.wholes
            if isinstance(whole, WHOLES) and contents_of(whole) != then
        ]

    def put_back(self) -> None:
        """Give every place its value back."""
        for holder, key, then, _ in self.changed():
            holder.write(key, then)
        for _, whole, held in self.wholes:
            restore(whole, held)
        for holder in (holder for holder in self.holders if holder.grown()):
            if isinstance(holder.at, list | collections.deque):
                holder.at.clear()
                holder.at.extend(holder.values)
            else:
                for key in set(holder.at).difference(holder.keys, _OF_MODULES):
                    del holder.at[key]

    def guards(self, read: Sequence[Tensor], free: Collection[tuple[int, Any]] = ()) -> Guards:
        """Return what watches the values for a graph: its tensors, and whatever is no tensor.

        Args:
            read: the tensors that the graph reads.
            free: places, by the holder's id and the key, whose values may change.
        """
        graphs = {id(tensor) for tensor in read}
        watch = Guards()
        for holder in self.holders:
            for key, value in zip(holder.keys, holder.values, strict=True):
                followed = id(value) in self._seen and key not in _CONTAINERS
                if not holder.own and isinstance(value, tuple):
                    followed = not any(isinstance(inner, Tensor) for inner in value)  # a cache
                watched = id(value) in graphs or isinstance(value, Primitive) or followed
                if watched and (id(holder.at), key) not in free:
                    watch.add(holder, key, value)
            if holder.size is not None:
                watch.add_size(holder)
        for _, whole, held in self.wholes:
            if isinstance(whole, WHOLES):
                watch.add_whole(whole, held)
        return watch

    def _visit(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if id(value) in self._seen or isinstance(value, Primitive):
            return
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter) or (value.requires_grad and value.is_leaf):
                self.parameters.append(value)
            if isinstance(value, nn.Parameter):
                self._seen[id(value)] = value
            return
        if isinstance(value, types.FunctionType):
            self._function(value, where)
        elif isinstance(value, types.MethodType):
            self._follow([(value.__self__, title_of(value.__self__)), (value.__func__, where)])
        elif isinstance(value, functools.partial):
            parts = {"args": value.args, "keywords": value.keywords, "func": value.func}
            self._follow([(part, f"{where}.{name}") for name, part in parts.items()])
        elif isinstance(value, staticmethod | classmethod):
            self._visit(value.__func__, where, own)
        elif isinstance(value, property):
            self._follow([(f, where) for f in (value.fget,) if f is not None])
        elif isinstance(value, (*GENERATORS, *WHOLES, io.IOBase)):
            self.wholes.append((where, value, contents_of(value)))
            self._follow([(led, where) for led in leads_to(value)], own=True)
        elif isinstance(value, (*SIZED, tuple)):
            self._container(value, where, own)
            self._object(value, where)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        else:
            self._follow([(led, where) for led in leads_to(value)], own=True)
            self._object(value, where)
        self._seen[id(value)] = value

    def _follow(self, found: Sequence[tuple[Any, str]], *, own: bool = False) -> None:
        self._waiting.extend((value, where, own) for value, where in found)

    def _hold(
        self,
        at: Any,
        keys: Sequence[Any],
        where: str,
        *,
        own: bool,
        sized: bool = True,
        slots: bool = False,
    ) -> None:
        """Keep the values of a holder, and go on to them."""
        keys = [key for key in keys if key != STEPS]
        holder = Holder(at, tuple(keys), where, own, slots=slots)
        if not keys and (slots or not isinstance(at, SIZED)):
            return
        holder.values = tuple(map(holder.read, keys))
        if sized and not slots and isinstance(at, SIZED):
            holder.size = len(at)
        self.holders.append(holder)
        self._follow(
            [(v, holder.name(k)) for k, v in zip(keys, holder.values, strict=True)], own=own
        )

    def _function(self, function: types.FunctionType, where: str) -> None:
        own = not of_library(function.__module__)
        name = function.__qualname__.rpartition("<locals>.")[2]
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for variable, cell in cells:
            self._hold(cell, ("",), f"{variable} (in {name})", own=own)
        for kept in (function.__defaults__, function.__kwdefaults__):
            if kept:
                self._follow([(kept, f"{name}.defaults")], own=own)
        if function.__dict__:
            self._hold(function.__dict__, tuple(function.__dict__), name, own=own)
        if own:
            named = names_in(function.__code__)
            self._names |= named
            for imported in imported_by(
                function.__code__, function.__globals__.get("__package__")
            ):
                self._module(imported)
            if not named.isdisjoint(("environ", "getenv")):
                self._follow([(os.environ, "os.environ")], own=True)
            self._named(function.__globals__, named, function.__module__)

    def _named(self, variables: dict[str, Any], named: set[str], where: str) -> None:
        """Follow the variables of a module that code names, and those of modules among them."""
        keys = [
            name
            for name in sorted(named & variables.keys())
            if not (isinstance(variables[name], types.ModuleType) or is_library(variables[name]))
        ]
        if keys:
            self._hold(variables, keys, where, own=True, sized=False)
        for name in named & variables.keys():
            self._module(variables[name])

    def _module(self, module: Any) -> None:
        """Note a module of the user's, whose variables are followed where code names them."""
        if isinstance(module, types.ModuleType) and not of_library(module.__name__):
            self._modules.setdefault(id(module), (module, set()))

    def _look_into_modules(self) -> None:
        """Follow the variables of modules that the code met so far names."""
        for module, held in list(self._modules.values()):
            new = (self._names & vars(module).keys()) - held
            held |= new
            self._named(vars(module), new, module.__name__)

    def _container(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if isinstance(value, tuple):
            self._follow([(inner, f"{where}[{i}]") for i, inner in enumerate(value)], own=own)
        else:
            keys = tuple(value) if isinstance(value, dict) else tuple(range(len(value)))
            self._hold(value, keys, where, own=own)

    def _class(self, kind: type) -> None:
        """Follow what a class of the user's, and those that it comes from, give its objects."""
        for base in kind.__mro__:
            if of_library(base.__module__) or id(base) in self._seen:
                continue
            self._seen[id(base)] = base
            keys = [name for name in base.__dict__ if not name.startswith("__")]
            keys += [name for name in ("__call__",) if name in base.__dict__]
            title = base.__qualname__.rpartition("<locals>.")[2]
            self._hold(base, keys, title, own=True)
            special = [f for f in base.__dict__.values() if isinstance(f, types.FunctionType)]
            self._follow([(function, title) for function in special], own=True)
            self._class(type(base))

    def _object(self, value: Any, where: str) -> None:
        kind = type(value)
        iterates = isinstance(value, Iterator) and not isinstance(value, io.IOBase)
        if iterates and of_library(kind.__module__):
            self.iterators.append(where)
        if not is_followed(value):
            return
        own = isinstance(value, RECORDS) or not of_library(kind.__module__)
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict):
            keys = [
                key for key in held if key not in _OF_MODULES or not isinstance(value, nn.Module)
            ]
            title = where if isinstance(value, nn.Module) and not own else kind.__name__
            self._hold(held, keys, title, own=own)
        slots = slots_of(value) if own else []
        if slots:
            self._hold(value, slots, kind.__name__, own=own, slots=True)
        if own:
            self._class(kind)
