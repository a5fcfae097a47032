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
import random
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import getitem, is_
from typing import Any, Final

import numpy as np
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor, nn

from pyrovae.randomness import state_of

MOST: Final = 5000
"""How many objects are walked over; beyond it, only a step held beside Pyro's tells."""

FEW_NUMBERS: Final = 64
"""How many numbers an array of numpy has whose changes are seen at once."""

Numbers = int | float
Primitive = bool | int | float | complex | str | bytes | None | torch.dtype | torch.device
_LIBRARIES: Final = frozenset({"torch", "pyro", "numpy", "pyrovae", *sys.stdlib_module_names})
_GENERATORS: Final = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
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


@dataclass
class Holder:
    """Something that keeps values under keys: a dict, a list, a cell of a closure, a class.

    A set or deque is held by its content, an object with slots by these, and a small array of
    numpy by its numbers.

    Attributes:
        at: the dict, list, cell, class or whatever keeps the values.
        keys: of the values watched.
        where: what it is called in a sentence.
        own: whether it is the user's, and no library's.
        values: what stood under the keys.
        size: how many values a container has; None for other holders.
        content: of a set or deque, to be put back.
    """

    at: Any
    keys: tuple[Any, ...]
    where: str
    own: bool
    values: tuple[Any, ...] = ()
    size: int | None = None
    content: tuple[Any, ...] = ()

    def holds(self) -> bool:
        """Tell whether the very values stand here still."""
        return not self.grown() and all(map(is_, map(self.read, self.keys), self.values))

    def read(self, key: Any) -> Any:
        """Return what stands under a key now, or a mark that nothing does."""
        try:
            if isinstance(self.at, types.CellType):
                return self.at.cell_contents
            if isinstance(self.at, type):
                return self.at.__dict__[key]
            if isinstance(self.at, np.ndarray):
                return self.at.tobytes()
            if isinstance(self.at, dict | list):
                return self.at[key]
            return getattr(self.at, key)
        except (KeyError, IndexError, ValueError, AttributeError):
            return _GONE

    def write(self, key: Any, value: Any) -> None:
        """Put a value under a key."""
        if isinstance(self.at, types.CellType):
            self.at.cell_contents = value
        elif isinstance(self.at, np.ndarray):
            self.at[...] = np.frombuffer(value, self.at.dtype).reshape(self.at.shape)
        elif isinstance(self.at, dict | list):
            self.at[key] = value
        else:
            setattr(self.at, key, value)

    def changed(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield each key whose value is another one, with both values."""
        for key, then in zip(self.keys, self.values, strict=True):
            now = self.read(key)
            if now is not then and not _alike(now, then):
                yield key, then, now

    def grown(self) -> bool:
        """Tell whether there are more or fewer values than there were."""
        return self.size is not None and len(self.at) != self.size

    def put_back(self) -> None:
        """Give a container the values back that it had."""
        if isinstance(self.at, list):
            self.at[:] = self.values
        elif isinstance(self.at, dict):
            for key in set(self.at).difference(self.keys, _OF_MODULES):
                del self.at[key]
        else:
            self.at.clear()
            (self.at.update if isinstance(self.at, set) else self.at.extend)(self.content)

    def name(self, key: Any) -> str:
        """Return what a key of this holder is called in a sentence."""
        if isinstance(self.at, types.CellType | np.ndarray):
            return self.where
        return f"{self.where}[{key!r}]" if isinstance(self.at, list) else f"{self.where}.{key}"


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
    if isinstance(one, set | frozenset):
        return one == other and all(isinstance(value, Primitive) for value in one)
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
        self._others: list[tuple[Holder, Any]] = []
        self._contents: list[Any] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []

    def add(self, holder: Holder, key: Any, value: Any) -> None:
        """Watch a value."""
        source = holder.at.__dict__ if isinstance(holder.at, type) else holder.at
        if not isinstance(source, dict | list | types.MappingProxyType):
            self._others.append((holder, key))
            self._contents.append(value)
            return
        self._places.append((holder, key))
        self._sources.append(source)
        self._keys.append(key)
        self._values.append(value)

    def add_size(self, holder: Holder) -> None:
        """Watch how many values a list or dict has."""
        self._sized.append(holder.at)
        self._sizes.append(len(holder.at))

    def holds(self) -> bool:
        """Tell whether the very values stand there still."""
        try:
            now = list(map(getitem, self._sources, self._keys))
            inner = [holder.read(key) for holder, key in self._others]
        except (KeyError, IndexError, ValueError):
            return False
        return (
            all(map(is_, now, self._values))
            and (inner == self._contents or all(map(is_, inner, self._contents)))
            and list(map(len, self._sized)) == self._sizes
        )

    def changed(self) -> list[tuple[Any, Any]] | None:
        """Return each value that is another one, with the present one; None if some are gone."""
        if list(map(len, self._sized)) != self._sizes:
            return None
        now = [holder.read(key) for holder, key in self._places]
        now += [holder.read(key) for holder, key in self._others]
        pairs = zip((*self._values, *self._contents), now, strict=True)
        return [(then, value) for then, value in pairs if not _alike(then, value)]

    def note(self) -> None:
        """Take the values that stand now for those that are to stand."""
        self._values = [holder.read(key) for holder, key in self._places]
        self._contents = [holder.read(key) for holder, key in self._others]


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
        ['program.defaults[0]']
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self.holders: list[Holder] = []
        self.parameters: list[Tensor] = []
        self.generators: list[tuple[str, Any, Any]] = []
        self.iterators: list[str] = []
        self._seen: dict[int, Any] = {}
        self._waiting = collections.deque((root, _title(root), False) for root in roots)
        while self._waiting and len(self._seen) < MOST:
            self._visit(*self._waiting.popleft())

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
        found += [name for name, source, then in self.generators if state_of(source) != then]
        return list(dict.fromkeys(found))

    def note(self) -> None:
        """Take the values that stand now for those that are to stand."""
        for holder in self.holders:
            holder.values = tuple(map(holder.read, holder.keys))

    def put_back(self) -> None:
        """Give every place its value back."""
        for holder, key, then, _ in self.changed():
            holder.write(key, then)
        for holder in (holder for holder in self.holders if holder.grown()):
            holder.put_back()

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
        return watch

    def _visit(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if id(value) in self._seen or isinstance(value, Primitive):
            return
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter):
                self.parameters.append(value)
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
        elif isinstance(value, _GENERATORS):
            self.generators.append((where, value, state_of(value)))
        elif isinstance(value, list | dict | tuple | set | collections.deque):
            self._container(value, where, own)
        elif isinstance(value, np.ndarray):
            if value.size <= FEW_NUMBERS and value.dtype != object:
                self._hold(value, ("",), where, own=own)
        elif isinstance(value, type):
            self._class(value)
        elif not isinstance(value, types.ModuleType):
            self._object(value, where)
        self._seen[id(value)] = value

    def _follow(self, found: Sequence[tuple[Any, str]], *, own: bool = False) -> None:
        self._waiting.extend((value, where, own) for value, where in found)

    def _hold(
        self, at: Any, keys: Sequence[Any], where: str, *, own: bool, sized: bool = True
    ) -> None:
        """Keep the values of a holder, and go on to them."""
        holder = Holder(at, tuple(keys), where, own)
        if not keys and not isinstance(at, list | dict):
            return
        holder.values = tuple(map(holder.read, keys))
        if sized and isinstance(at, list | dict):
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
            module = variables[name]
            if isinstance(module, types.ModuleType) and not _of_library(module.__name__):
                inner = vars(module)
                if id(inner) not in self._seen:
                    self._seen[id(inner)] = inner
                    self._named(inner, named, module.__name__)

    def _container(self, value: Any, where: str, own: bool) -> None:  # noqa: FBT001
        if isinstance(value, tuple):
            self._follow([(inner, f"{where}[{i}]") for i, inner in enumerate(value)], own=own)
        elif isinstance(value, set | collections.deque):
            content = tuple(value)
            self.holders.append(Holder(value, (), where, own, size=len(content), content=content))
            self._follow([(inner, f"{where}[...]") for inner in content], own=own)
        else:
            keys = tuple(range(len(value))) if isinstance(value, list) else tuple(value)
            self._hold(value, keys, where, own=own)

    def _class(self, kind: type) -> None:
        """Follow what a class of the user's, and those that it comes from, give its objects."""
        for base in kind.__mro__:
            if _of_library(base.__module__) or id(base.__dict__) in self._seen:
                continue
            self._seen[id(base.__dict__)] = base
            keys = [name for name in base.__dict__ if not name.startswith("__")]
            keys += [name for name in ("__call__",) if name in base.__dict__]
            self._hold(base, keys, base.__qualname__.rpartition("<locals>.")[2], own=True)

    def _object(self, value: Any, where: str) -> None:
        kind = type(value)
        iterates = isinstance(value, Iterator) and not isinstance(value, io.IOBase)
        if iterates and _of_library(kind.__module__):
            self.iterators.append(where)
        if not _is_followed(value):
            return
        own = not _of_library(kind.__module__)
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict):
            keys = [
                key for key in held if key not in _OF_MODULES or not isinstance(value, nn.Module)
            ]
            title = where if isinstance(value, nn.Module) and not own else kind.__name__
            self._hold(held, keys, title, own=own)
        slots = [name for name in _slots(kind) if hasattr(value, name)] if own else []
        if slots:
            self._hold(value, slots, kind.__name__, own=own)
        if own:
            self._class(kind)


def _slots(kind: type) -> list[str]:
    """Return the slots of a class and of those that it comes from."""
    named = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    flat = [name for slots in named for name in ([slots] if isinstance(slots, str) else slots)]
    return [name for name in flat if not name.startswith("__")]


def _is_followed(value: Any) -> bool:
    """Tell whether an object's attributes are walked over: not those of a library's records."""
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
    """Return the globals and attributes that code names, with the code inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _title(value: Any) -> str:
    named = getattr(value, "__qualname__", type(value).__name__)
    return str(named).rpartition("<locals>.")[2]
