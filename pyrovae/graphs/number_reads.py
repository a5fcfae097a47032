"""Note the numbers that Python reads from tensors while a function is recorded.

While it records, torch computes eagerly with tensors of one number that existed before. What
Python reads from them is a constant of the graph, which holds only while they keep these values;
and they have to be restored where the function has changed them in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from pyrovae.graphs.signatures import NotRecordable

__all__ = ["BRANCHES", "NumberReads", "same_number"]

BRANCHES: Final = (
    "Python branches there on the value of a tensor. torch.where keeps it in the graph; "
    "compile=False runs it uncompiled without a warning"
)
_READING: Final = frozenset(
    {
        Tensor.item,
        Tensor.tolist,
        Tensor.numpy,
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__int__,
        Tensor.__index__,
        Tensor.__complex__,
        Tensor.__array__,
    }
)


def same_number(one: Any, other: Any) -> bool:
    """Tell whether two numbers are equal or both NaN."""
    return bool(one == other or (one != one and other != other))


class NumberReads(TorchFunctionMode):
    """Intercept reads of tensors that existed before the recording.

    Attributes:
        values: the tensors of one number that were read, by id, with their numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, tuple[Tensor, Any]] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._derived: dict[int, Tensor] = {}

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        self._keep(tensor for tensor in tensors if _is_single(tensor))
        if _writes(func, kwargs):
            given = pytree.tree_leaves((args, kwargs))
            self._keep(tensor for tensor in given if isinstance(tensor, Tensor))
        if _sets_data(func) and not isinstance(args[0], FakeTensor):
            raise NotRecordable(
                "it assigns to the data of a tensor: use copy_, which can be recorded"
            )
        if func in _READING and tensors:
            return self._read(func, tensors[0], args, kwargs)
        found = func(*args, **kwargs)
        if isinstance(found, FakeTensor) and any(self._is_derived(tensor) for tensor in tensors):
            self._derived[id(found)] = found
        return found

    def restore(self) -> None:
        """Restore the tensors that were changed, the last one first."""
        with torch.no_grad():
            for tensor, value in reversed(self._before.values()):
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self._before and not (
                isinstance(tensor, FakeTensor) or tensor.is_meta
            ):
                with _disable_current_modes():
                    self._before[id(tensor)] = (tensor, tensor.detach().clone())

    def _is_derived(self, tensor: Tensor) -> bool:
        met = id(tensor) in self._before and _is_single(tensor)
        return id(tensor) in self._derived or met

    def _read(self, func: Any, tensor: Tensor, args: Any, kwargs: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            if id(tensor) in self._derived:
                raise NotRecordable(BRANCHES)
            return func(*args, **kwargs)
        if not _is_single(tensor):
            raise NotRecordable(BRANCHES)
        with _disable_current_modes():
            self.values[id(tensor)] = (tensor, self._before[id(tensor)][1].item())
        return func(*args, **kwargs)


def _writes(func: Any, kwargs: Any) -> bool:
    """Tell whether a function changes its argument in place, which torch then does eagerly."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__i") or name == "__setitem__"
    return special or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs


def _sets_data(func: Any) -> bool:
    return getattr(func, "__name__", "") == "__set__" and func.__self__ is Tensor.data


def _is_single(tensor: Tensor) -> bool:
    """Tell whether a tensor of one number existed before the recording."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta) and tensor.numel() <= 1
