"""The arguments of a recorded graph: which of them are inputs, and what it holds for beside them.

Tensors are inputs of a graph, also those that a plain object among the arguments holds. A float
is one where it was seen to change; whatever else the arguments hold is part of the key that a
graph is kept by.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyro
import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext

from pyrovae.graphs.contents import slots_of

_PLAIN: Final = (Tensor, int, float, complex, str, bytes, type(None))


class NotRecordable(Exception):  # noqa: N818
    """A function that has no static graph, or none that compiles; the text says what forced it."""


class Arguments:
    """The arguments of a call, taken apart into leaves and what they are leaves of.

    Attributes:
        given: the arguments themselves.
        leaves: what they hold, in one order.
        shape: what a graph is kept by: the structure, the kinds of the tensors, and the values of
            all else but floats.
        floats: where the leaves are floats, and their values.
    """

    def __init__(self, arguments: Any) -> None:
        self.given = arguments
        self.leaves, self._structure = _opened(arguments)
        self.floats = {i: v for i, v in enumerate(self.leaves) if isinstance(v, float)}
        self.shape = (self._structure, tuple(map(_kind, self.leaves)))

    def inputs(self, varying: Collection[int] = ()) -> list[Tensor]:
        """Return the tensors, and the floats that vary as tensors, in double among doubles."""
        dtype = float_type(self.leaves)
        return [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=dtype)
            for i, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) or i in varying
        ]

    def refilled(self, tensors: Iterator[Tensor], varying: Collection[int] = ()) -> Any:
        """Return the arguments with other inputs, in the order of `inputs`."""
        leaves = [
            next(tensors) if isinstance(leaf, Tensor) or i in varying else leaf
            for i, leaf in enumerate(self.leaves)
        ]
        return _closed(iter(leaves), self._structure)

    def objects(self) -> list[Any]:
        """Return the leaves that may hold values of their own: functions, modules, objects."""
        return [leaf for leaf in self.leaves if not isinstance(leaf, _PLAIN)]


def float_type(values: Sequence[Any]) -> torch.dtype:
    """Return the type of a float among tensors: double among doubles, else torch's default."""
    doubles = any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values)
    return torch.float64 if doubles else torch.get_default_dtype()


def ambient() -> bool:
    """Tell whether handlers or autocast are in force, which no recorded graph knows of."""
    return am_i_wrapped() or is_autocasting()


def is_autocasting() -> bool:
    """Tell whether autocast is in force on any device."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def under_modes() -> bool:
    """Tell whether modes of torch, hooks on every module or a search for anomalies are on."""
    modes = range(torch._C._len_torch_function_stack())
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch.is_anomaly_enabled()
        or nn.modules.module._has_any_global_hook()
        or any(type(torch._C._get_function_stack_at(i)) is not DeviceContext for i in modes)
    )


def settings() -> tuple[Any, ...]:
    """Return the settings of torch and Pyro that a program runs under."""
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.distributions.Distribution._validate_args,
        is_validation_enabled(),
        pyro.poutine.util.is_validation_enabled(),
        torch._C._len_torch_function_stack() and torch.get_default_device(),
    )


def _opened(arguments: Any) -> tuple[list[Any], Any]:
    """Take arguments apart, plain objects among them included."""
    leaves, structure = pytree.tree_flatten(arguments)
    if all(isinstance(leaf, _PLAIN) for leaf in leaves):
        return leaves, structure
    found: list[Any] = []
    inner: list[Any] = []
    for leaf in leaves:
        held, form = _opened(_held(leaf)) if _is_record(leaf) else ([leaf], None)
        found += held
        inner.append(form and _Record(leaf, form))
    return found, (structure, tuple(inner))


def _closed(leaves: Iterator[Any], structure: Any) -> Any:
    """Put arguments together again; the objects among them are copies."""
    if not isinstance(structure, tuple):
        return structure.unflatten([next(leaves) for _ in range(structure.num_leaves)])
    outer, inner = structure
    return outer.unflatten(
        [next(leaves) if form is None else form.closed(leaves) for form in inner]
    )


class _Record:
    """A plain object among the arguments, by its class and the structure of its attributes."""

    def __init__(self, record: Any, form: Any) -> None:
        self.record, self.form = record, form

    def closed(self, leaves: Iterator[Any]) -> Any:
        """Return a copy of the object that holds other leaves."""
        again = copy.copy(self.record)
        for name, value in _closed(leaves, self.form).items():
            object.__setattr__(again, name, value)
        return again

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Record) and type(other.record) is type(self.record)
        return same and other.form == self.form  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(type(self.record))


def _held(leaf: Any) -> dict[str, Any]:
    """Return the attributes of an object, and its slots if they hold tensors."""
    slots = {name: getattr(leaf, name) for name in slots_of(leaf)}
    held = slots if any(isinstance(value, Tensor) for value in slots.values()) else {}
    return {**getattr(leaf, "__dict__", {}), **held}


def _is_record(leaf: Any) -> bool:
    held = None if isinstance(leaf, type) else _held(leaf)
    return bool(held) and not (callable(leaf) or isinstance(leaf, (*_PLAIN, nn.Module)))


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, np.ndarray) or not isinstance(leaf, Hashable):
        raise NotRecordable(f"an argument is {type(leaf).__name__}: give a tensor")
    return float if isinstance(leaf, float) else (type(leaf), leaf)
