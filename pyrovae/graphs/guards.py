"""What Python holds that a graph would freeze: every value that a program can reach.

A recorded graph follows tensors. Numbers, objects and tensors that Python holds, in attributes,
closures, globals and containers, are read while it is recorded and never again. `Reach` finds the
places where they stand, from the programs on; a graph is used while each still holds the value
that it was recorded under, and a program that changes one of them as it runs is not recorded.
"""

from __future__ import annotations

import collections
import dis
import functools
import io
import os
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import getitem, is_
from typing import Any, Final

import torch
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor, nn

from pyrovae.graphs.contents import (
    GENERATORS,
    RECORDS,
    WHOLES,
    Attributes,
    Present,
    contents_of,
    leads_to,
    restore,
    slots_of,
)
from pyrovae.randomness import STEPS

MOST: Final = 5000
"""How many objects are walked over; beyond it, only a step held beside Pyro's tells."""

Numbers = int | float
Primitive = bool | int | float | complex | str | bytes | None | torch.dtype | torch.device
_LIBRARIES: Final = frozenset({"torch", "pyro", "numpy", "pyrovae", *sys.stdlib_module_names})
_SIZED: Final = (dict, list, collections.deque)
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

_GONE: Final = object()
_IMPORT: Final = dis.opmap["IMPORT_NAME"]


@dataclass
class Holder:
    """Something that keeps values under keys: a dict, a list, a closure's cell, a class, slots.

    Attributes:
        at: the dict, list, cell or class, or the object that has slots.
        keys: of the values watched.
        where: what it is called in a sentence.
        own: whether it is the user's, and no library's.
        values: what stood under the keys.
        size: how many values a dict or list has; None for other holders.
        slots: whether the keys are slots of an object, which may be a dict or list too.
    """

    at: Any
    keys: tuple[Any, ...]
    where: str
    own: bool
    values: tuple[Any, ...] = ()
    size: int | None = None
    slots: bool = False

    def holds(self) -> bool:
        """Tell whether the very values stand here still."""
        return not self.grown() and all(map(is_, map(self.read, self.keys), self.values))

    def read(self, key: Any) -> Any:
        """Return what stands under a key now, or a mark that nothing does."""
        try:
            if isinstance(self.at, types.CellType):
                return self.at.cell_contents
            return self.source[key]
        except (KeyError, IndexError, ValueError):
            return _GONE

    @property
    def source(self) -> Any:
        """Return what gives the values by their keys."""
        if isinstance(self.at, type):
            return self.at.__dict__
        if self.slots or not isinstance(self.at, _SIZED):
            return Attributes(self.at)
        return Present(self.at) if isinstance(self.at, dict) and _makes(self.at) else self.at

    def write(self, key: Any, value: Any) -> None:
        """Put a value under a key."""
        if isinstance(self.at, types.CellType):
            self.at.cell_contents = value
        elif isinstance(self.at, type):
            setattr(self.at, key, value)
        elif isinstance(self.at, _SIZED) and not self.slots:
            self.at[key] = value
        else:
            object.__setattr__(self.at, key, value)

    def changed(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield each key whose value is another one, with both values."""
        for key, then in zip(self.keys, self.values, strict=True):
            now = self.read(key)
            if now is not then and not _alike(now, then):
                yield key, then, now

    def grown(self) -> bool:
        """Tell whether there are more or fewer values than there were."""
        return self.size is not None and len(self.at) != self.size

    def name(self, key: Any) -> str:
        """Return what a key of this holder is called in a sentence."""
        if isinstance(self.at, types.CellType):
            return self.where
        numbered = isinstance(self.at, list | collections.deque)
        return f"{self.where}[{key!r}]" if numbered else f"{self.where}.{key}"


def _makes(held: dict[Any, Any]) -> bool:
    """Tell whether a dict makes what it is asked for and has not, as a defaultdict does."""
    return hasattr(type(held), "__missing__")


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two values are one number, word or method, or a record of such, made anew."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    if isinstance(one, Primitive | types.MethodType):
        return bool(one == other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and _all_alike(one.values(), map(other.get, one))
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and _all_alike(one, other)
    return isinstance(one, IndepMessenger) and _alike(vars(one), vars(other))


def _all_alike(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(
        _alike(one, other) or (isinstance(one, Tensor) and _same_few(one, other))
        for one, other in zip(some, others, strict=True)
    )


def _same_few(one: Tensor, other: Any) -> bool:
    """Tell whether two tensors hold the same few numbers, as the indices of a plate."""
    if type(one) is not type(other) or one.numel() > 1000 or one.device != other.device:
        return False
    return one.dtype == other.dtype and torch.equal(one, other)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that a graph could take as an input."""
    return isinstance(value, Numbers) and not isinstance(value, bool)


class Watch:
    """Whether values stand where they stood, asked at each step in a few microseconds."""

    def __init__(self) -> None:
        self._places: list[tuple[Holder, Any]] = []
        self._sources: list[Any] = []
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._cells: list[tuple[Holder, types.CellType]] = []
        self._contents: list[Any] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []
        self._wholes: list[Any] = []
        self._held: list[Any] = []

    def add(self, holder: Holder, key: Any, value: Any) -> None:
        """Watch a value."""
        if isinstance(holder.at, types.CellType):
            self._cells.append((holder, holder.at))
            self._contents.append(value)
            return
        self._places.append((holder, key))
        self._sources.append(holder.source)
        self._keys.append(key)
        self._values.append(value)

    def add_size(self, holder: Holder) -> None:
        """Watch how many values a list or dict has."""
        self._sized.append(holder.at)
        self._sizes.append(len(holder.at))

    def add_whole(self, whole: Any, held: Any) -> None:
        """Watch what an array or a set holds."""
        self._wholes.append(whole)
        self._held.append(held)

    def holds(self) -> bool:
        """Tell whether the very values stand there still."""
        try:
            now = list(map(getitem, self._sources, self._keys))
            inner = [cell.cell_contents for _, cell in self._cells]
        except (KeyError, IndexError, ValueError):
            return False
        return (
            all(map(is_, now, self._values))
            and all(map(is_, inner, self._contents))
            and self._same_sizes()
        )

    def _same_sizes(self) -> bool:
        sizes = list(map(len, self._sized)) == self._sizes
        return sizes and list(map(contents_of, self._wholes)) == self._held

    def changed(self) -> list[tuple[Any, Any]] | None:
        """Return each value that is another one, with the present one; None if some are gone."""
        if not self._same_sizes():
            return None
        now = [holder.read(key) for holder, key in self._places]
        now += [holder.read("") for holder, _ in self._cells]
        pairs = zip((*self._values, *self._contents), now, strict=True)
        return [(then, value) for then, value in pairs if not _alike(then, value)]

    def note(self) -> None:
        """Take the values that stand now for those that are to stand.

        A dict or list in place of one that was alike is looked into from now on.
        """
        now = [holder.read("") for holder, _ in self._cells]
        moved = _made_anew(self._contents, now)
        self._contents = now
        for i, (holder, key) in enumerate(self._places):
            if id(holder.at) in moved:
                holder.at = moved[id(holder.at)]
            self._sources[i] = holder.source
            value = holder.read(key)
            moved |= _made_anew([self._values[i]], [value])
            self._values[i] = value
        self._sized = [moved.get(id(sized), sized) for sized in self._sized]


def _made_anew(then: Sequence[Any], now: Sequence[Any]) -> dict[int, Any]:
    """Return the dicts and lists that stand in place of others, by the ids of these."""
    pairs = zip(then, now, strict=True)
    return {id(a): b for a, b in pairs if a is not b and isinstance(a, _SIZED)}


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
        self._waiting = collections.deque((root, _title(root), False) for root in roots)
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

    def watch(self, read: Sequence[Tensor], free: Collection[tuple[int, Any]] = ()) -> Watch:
        """Return what watches the values for a graph: its tensors, and whatever is no tensor.

        Args:
            read: the tensors that the graph reads.
            free: places, by the holder's id and the key, whose values may change.
        """
        graphs = {id(tensor) for tensor in read}
        watch = Watch()
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
            self._follow([(value.__self__, _title(value.__self__)), (value.__func__, where)])
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
        elif isinstance(value, (*_SIZED, tuple)):
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
        if not keys and (slots or not isinstance(at, _SIZED)):
            return
        holder.values = tuple(map(holder.read, keys))
        if sized and not slots and isinstance(at, _SIZED):
            holder.size = len(at)
        self.holders.append(holder)
        self._follow(
            [(v, holder.name(k)) for k, v in zip(keys, holder.values, strict=True)], own=own
        )

    def _function(self, function: types.FunctionType, where: str) -> None:
        own = not _of_library(function.__module__)
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
            named = _names(function.__code__)
            self._names |= named
            for imported in _imported(function.__code__, function.__globals__.get("__package__")):
                self._module(imported)
            if not named.isdisjoint(("environ", "getenv")):
                self._follow([(os.environ, "os.environ")], own=True)
            self._named(function.__globals__, named, function.__module__)

    def _named(self, variables: dict[str, Any], named: set[str], where: str) -> None:
        """Follow the variables of a module that code names, and those of modules among them."""
        keys = [
            name
            for name in sorted(named & variables.keys())
            if not (isinstance(variables[name], types.ModuleType) or _is_library(variables[name]))
        ]
        if keys:
            self._hold(variables, keys, where, own=True, sized=False)
        for name in named & variables.keys():
            self._module(variables[name])

    def _module(self, module: Any) -> None:
        """Note a module of the user's, whose variables are followed where code names them."""
        if isinstance(module, types.ModuleType) and not _of_library(module.__name__):
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
            if _of_library(base.__module__) or id(base) in self._seen:
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
        if iterates and _of_library(kind.__module__):
            self.iterators.append(where)
        if not _is_followed(value):
            return
        own = isinstance(value, RECORDS) or not _of_library(kind.__module__)
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


def _is_followed(value: Any) -> bool:
    """Tell whether an object's attributes are walked over: not those of a library's records."""
    if isinstance(value, RECORDS):
        return True
    package, _, rest = type(value).__module__.partition(".")
    if package == "pyro":
        return not rest.startswith(("poutine.trace_struct", "params", "optim"))
    if package == "torch":
        return isinstance(value, nn.Module | torch.distributions.Distribution)
    return package == "pyrovae" or not _of_library(package)


def _is_library(value: Any) -> bool:
    """Tell whether a function or class is a library's, which stays as it is."""
    return isinstance(value, type | types.FunctionType) and _of_library(value.__module__)


def _of_library(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _LIBRARIES


def _names(code: types.CodeType) -> set[str]:
    """Return the globals and attributes that code names, words included, with code inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    words = {w for w in code.co_consts if isinstance(w, str) and w.isidentifier()}
    return words.union(code.co_names, *map(_names, inner))


def _imported(code: types.CodeType, package: str | None) -> list[Any]:
    """Return the modules that code imports as it runs."""
    steps = zip(code.co_code[::2], code.co_code[1::2], strict=True)
    named = [code.co_names[i] for step, i in steps if step == _IMPORT and i < len(code.co_names)]
    found = [sys.modules.get(name) for name in named]
    found += [sys.modules.get(f"{package}.{name}".rstrip(".")) for name in named if package]
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return found + [module for code in inner for module in _imported(code, package)]


def _title(value: Any) -> str:
    named = getattr(value, "__qualname__", type(value).__name__)
    return str(named).rpartition("<locals>.")[2]
