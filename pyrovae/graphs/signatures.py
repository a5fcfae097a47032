"""Flatten the arguments of a call into the inputs of a graph and the key it is kept under.

Tensors are inputs, also those in attributes of a plain object among the arguments. A float that
was seen to change is an input too. Everything else is part of the key, and so are the settings of
torch and Pyro.
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

__all__ = [
    "Arguments",
    "NotRecordable",
    "ReadsOutside",
    "TooLarge",
    "ambient",
    "float_type",
    "is_autocasting",
    "settings",
    "under_modes",
]

_PLAIN: Final = (Tensor, int, float, complex, str, bytes, type(None))


class NotRecordable(Exception):  # noqa: N818
    """Raised for a function without a static graph, or whose graph does not compile."""


class TooLarge(NotRecordable):
    """Raised for a function with so many operations that compiling it takes minutes."""


class ReadsOutside(NotRecordable):
    """Raised for programs that read or draw what no value of Python's shows."""


class Arguments:
    """The arguments of a call, flattened into leaves.

    Attributes:
        given: the arguments themselves.
        leaves: the tensors, numbers and other values in them.
        shape: the key of a graph: the structure, the shapes and types of the tensors, and all
            other values but floats.
        floats: the floats by their index among the leaves.

    Raises:
        NotRecordable: if a leaf is an array of numpy's or cannot be hashed.
    """

    def __init__(self, arguments: Any) -> None:
        self.given = arguments
        self.leaves, self._structure = _flattened(arguments)
        self.floats = {i: v for i, v in enumerate(self.leaves) if isinstance(v, float)}
        self.shape = (self._structure, tuple(map(_kind, self.leaves)))

    def inputs(self, varying: Collection[int] = ()) -> list[Tensor]:
        """Return the tensors, and the varying floats as tensors: the inputs of a graph."""
        dtype = float_type(self.leaves)
        return [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=dtype)
            for i, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) or i in varying
        ]

    def refilled(self, tensors: Iterator[Tensor], varying: Collection[int] = ()) -> Any:
        """Return the arguments with other inputs, given in the order of `inputs`."""
        leaves = [
            next(tensors) if isinstance(leaf, Tensor) or i in varying else leaf
            for i, leaf in enumerate(self.leaves)
        ]
        return _unflattened(iter(leaves), self._structure)

    def objects(self) -> list[Any]:
        """Return what may hold further values: functions, modules, objects, and their classes."""
        held = [leaf for leaf in self.leaves if not isinstance(leaf, _PLAIN)]
        return held + _classes_in(self._structure)


def float_type(values: Sequence[Any]) -> torch.dtype:
    """Return the dtype of a float among tensors: float64 if one of them is, else the default."""
    doubles = any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values)
    return torch.float64 if doubles else torch.get_default_dtype()


def ambient() -> bool:
    """Tell whether an effect handler or autocast is active, which a graph would ignore."""
    return am_i_wrapped() or is_autocasting()


def is_autocasting() -> bool:
    """Tell whether autocast is active on any device."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def under_modes() -> bool:
    """Tell whether a mode of torch, a global module hook or anomaly detection is active."""
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
        *pyro.settings.get().values(),
    )


def _flattened(arguments: Any) -> tuple[list[Any], Any]:
    """Flatten arguments, including the attributes of plain objects among them."""
    leaves, structure = pytree.tree_flatten(arguments)
    if all(isinstance(leaf, _PLAIN) for leaf in leaves):
        return leaves, structure
    found: list[Any] = []
    inner: list[Any] = []
    for leaf in leaves:
        attributes, form = _flattened(_attributes(leaf)) if _is_record(leaf) else ([leaf], None)
        found += attributes
        inner.append(form and _Record(leaf, form))
    return found, (structure, tuple(inner))


def _unflattened(leaves: Iterator[Any], structure: Any) -> Any:
    """Unflatten arguments; objects among them are copies."""
    if not isinstance(structure, tuple):
        return structure.unflatten([next(leaves) for _ in range(structure.num_leaves)])
    outer, inner = structure
    return outer.unflatten(
        [next(leaves) if form is None else form.unflattened(leaves) for form in inner]
    )


class _Record:
    """The structure of a plain object among the arguments: its class and its attributes."""

    def __init__(self, record: Any, form: Any) -> None:
        self.record, self.form = record, form

    def unflattened(self, leaves: Iterator[Any]) -> Any:
        """Return a copy of the object with other leaves."""
        again = copy.copy(self.record)
        for name, value in _unflattened(leaves, self.form).items():
            object.__setattr__(again, name, value)
        return again

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Record) and type(other.record) is type(self.record)
        return same and other.form == self.form  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(type(self.record))


def _classes_in(structure: Any) -> list[type]:
    """Return the classes of the objects and named tuples in a structure of arguments."""
    if not isinstance(structure, tuple):
        inner = [kind for child in structure.children() for kind in _classes_in(child)]
        return [k for k in (structure.type, structure.context) if isinstance(k, type)] + inner
    outer, records = structure
    found = _classes_in(outer)
    for record in records:
        if record is not None:
            found += [type(record.record), *_classes_in(record.form)]
    return found


def _attributes(leaf: Any) -> dict[str, Any]:
    """Return the attributes of an object, and its slots if one holds a tensor."""
    slots = {name: getattr(leaf, name) for name in slots_of(leaf)}
    attributes = slots if any(isinstance(value, Tensor) for value in slots.values()) else {}
    return {**getattr(leaf, "__dict__", {}), **attributes}


def _is_record(leaf: Any) -> bool:
    attributes = None if isinstance(leaf, type) else _attributes(leaf)
    return bool(attributes) and not (callable(leaf) or isinstance(leaf, (*_PLAIN, nn.Module)))


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, np.ndarray) or not isinstance(leaf, Hashable):
        raise NotRecordable(f"an argument is {type(leaf).__name__}: give a tensor")
    return float if isinstance(leaf, float) else (type(leaf), leaf)
