"""Find every Python value that a program can reach, which a graph of it would freeze.

A recorded graph reads tensors when it runs. Numbers and objects in attributes, closures, globals
and containers are read once, while the program is recorded. `Reach` finds them. A graph is used
only while they are the same, and a program that changes one as it runs is not recorded.
"""

from __future__ import annotations

import collections
import functools
import io
import os
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from pyrovae.graphs.contents import (
    GENERATORS,
    RECORDS,
    WHOLES,
    contents_of,
    leads_to,
    restore_contents,
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
"""The largest number of objects followed, those of large data last; only checks tell of others."""

_DATA: Final = 200
"""The number of values in one place above which they are data, and followed last."""

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
"""Dicts of a module that are never replaced: their contents are guarded instead."""


class Reach:
    """The Python values that programs can reach, at the time of the call.

    A function leads to its closure, its defaults and the globals it names; an object to its
    attributes and its class; lists, tuples and dicts to their items. Globals and classes of
    libraries are taken to be constant.

    Args:
        roots: the programs, and other objects that a step calls.

    Attributes:
        references: the number of places that hold a tensor, by its id.
        failure: the reason that a value cannot be followed, so that nothing is to be recorded;
            "" if all can.

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
        self.references: collections.Counter[int] = collections.Counter()
        self.failure = ""
        self._seen: dict[int, Any] = {}
        self._modules: dict[int, tuple[types.ModuleType, set[str]]] = {}
        self._names: set[str] = set()
        self._waiting = collections.deque((root, title_of(root), False) for root in roots)
        self._later: collections.deque[tuple[Any, str, bool]] = collections.deque()
        self._search()

    def changed(self) -> list[tuple[Holder, Any, Any, Any]]:
        """Return the holder, key, former and present value of each value that has changed."""
        return [
            (holder, *change)
            for holder in self.holders
            if not holder.holds()
            for change in holder.changed()
        ]

    def side_effects(self) -> list[str]:
        """Name the values that a run of the program has changed and a graph would not.

        Caches of libraries, such as that of a transform, are left out: each run fills them again.
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
        """Return what the programs can reach now: itself if nothing has changed."""
        return self if all(holder.holds() for holder in self.holders) else Reach(self.roots)

    def changed_contents(self) -> list[str]:
        """Name the arrays and sets whose contents have changed."""
        return [
            name
            for name, whole, then in self.wholes
            if isinstance(whole, WHOLES) and contents_of(whole) != then
        ]

    def restore(self) -> None:
        """Restore every value."""
        for holder, key, then, _ in self.changed():
            holder.write(key, then)
        for _, whole, held in self.wholes:
            restore_contents(whole, held)
        for holder in (holder for holder in self.holders if holder.grown()):
            if isinstance(holder.at, list | collections.deque):
                holder.at.clear()
                holder.at.extend(holder.values)
            else:
                for key in set(holder.at).difference(holder.keys, _OF_MODULES):
                    del holder.at[key]

    def guards(self, read: Sequence[Tensor], free: Collection[tuple[int, Any]] = ()) -> Guards:
        """Return the guards of a graph: over its tensors, and over all values but tensors.

        Args:
            read: the tensors that the graph reads.
            free: the places that may change, as (id of the holder, key).
        """
        graphs = {id(tensor) for tensor in read}
        guards = Guards(read)
        for holder in self.holders:
            for key, value in zip(holder.keys, holder.values, strict=True):
                followed = id(value) in self._seen and key not in _CONTAINERS
                if not holder.own and isinstance(value, tuple):
                    followed = not any(isinstance(inner, Tensor) for inner in value)  # a cache
                watched = id(value) in graphs or isinstance(value, Primitive) or followed
                if watched and (id(holder.at), key) not in free:
                    guards.add(holder, key, value)
                elif holder.own and isinstance(value, Tensor):
                    guards.add_form(holder, key, value)
            if holder.size is not None:
                guards.add_size(holder)
        for _, whole, held in self.wholes:
            if isinstance(whole, WHOLES):
                guards.add_whole(whole, held)
        return guards

    def _search(self) -> None:
        """Follow what waits, and what it leads to."""
        where = ""
        try:
            while self._waiting or self._later:
                while (self._waiting or self._later) and len(self._seen) < MOST:
                    value, where, own = (self._waiting or self._later).popleft()
                    self._visit(value, where, own)
                if len(self._seen) >= MOST:
                    return
                self._visit_modules()
        except Exception as error:  # An object may refuse in any way to be looked at.
            said = next(iter(str(error).splitlines()), "")
            self.failure = f"{where} cannot be looked into ({type(error).__name__}: {said})"

    def _visit(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if isinstance(value, Tensor):
            self.references[id(value)] += 1
        if id(value) in self._seen or isinstance(value, Primitive):
            return
        if isinstance(value, torch.jit.ScriptModule):
            self.failure = f"{where} is a module of TorchScript, which holds its values itself"
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
        # The items of data come last, so that MOST of them leave no object of the user's out.
        place = self._waiting if len(found) <= _DATA else self._later
        place.extend((value, where, own) for value, where in found)

    def _add(
        self,
        at: Any,
        keys: Sequence[Any],
        where: str,
        *,
        own: bool,
        sized: bool = True,
        slots: bool = False,
    ) -> None:
        """Add a holder, and follow its values."""
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
            self._add(cell, ("",), f"{variable} (in {name})", own=own)
        for kept in (function.__defaults__, function.__kwdefaults__):
            if kept:
                self._follow([(kept, f"{name}.defaults")], own=own)
        if function.__dict__:
            self._add(function.__dict__, tuple(function.__dict__), name, own=own)
        if own:
            named = names_in(function.__code__)
            self._names |= named
            for imported in imported_by(
                function.__code__, function.__globals__.get("__package__")
            ):
                self._module(imported)
            if not named.isdisjoint(("environ", "getenv")):
                self._follow([(os.environ, "os.environ")], own=True)
            self._variables(function.__globals__, named, function.__module__)

    def _variables(self, variables: dict[str, Any], named: set[str], where: str) -> None:
        """Follow the variables of a module that code names, and note modules among them."""
        keys = [
            name
            for name in sorted(named & variables.keys())
            if not (isinstance(variables[name], types.ModuleType) or is_library(variables[name]))
        ]
        if keys:
            self._add(variables, keys, where, own=True, sized=False)
        for name in named & variables.keys():
            self._module(variables[name])

    def _module(self, module: Any) -> None:
        """Note a module of the user's: those of its variables are followed that code names."""
        if isinstance(module, types.ModuleType) and not of_library(module.__name__):
            self._modules.setdefault(id(module), (module, set()))

    def _visit_modules(self) -> None:
        """Follow those variables of the noted modules that code seen so far names."""
        for module, held in list(self._modules.values()):
            new = (self._names & vars(module).keys()) - held
            held |= new
            self._variables(vars(module), new, module.__name__)

    def _container(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if isinstance(value, tuple):
            self._follow([(inner, f"{where}[{i}]") for i, inner in enumerate(value)], own=own)
        else:
            keys = tuple(value) if isinstance(value, dict) else tuple(range(len(value)))
            self._add(value, keys, where, own=own)
            if isinstance(value, dict):
                self._follow([(key, where) for key in keys if not isinstance(key, Primitive)])

    def _class(self, kind: type) -> None:
        """Follow the attributes and methods of a user's class and of its bases."""
        for base in kind.__mro__:
            if of_library(base.__module__) or id(base) in self._seen:
                continue
            self._seen[id(base)] = base
            keys = [name for name in base.__dict__ if not name.startswith("__")]
            keys += [name for name in ("__call__",) if name in base.__dict__]
            title = base.__qualname__.rpartition("<locals>.")[2]
            self._add(base, keys, title, own=True)
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
            self._add(held, keys, title, own=own)
        slots = slots_of(value) if own else []
        if slots:
            self._add(value, slots, kind.__name__, own=own, slots=True)
        if own:
            self._class(kind)
