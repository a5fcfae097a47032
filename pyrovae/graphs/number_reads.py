"""Which numbers Python reads from tensors while a function is recorded."""

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

__all__ = ["STEERS", "NumberReads"]

STEERS: Final = (
    "a value decides there what Python does. torch.where keeps it in the graph; compile=False "
    "runs it as it is, and says nothing"
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


class NumberReads(TorchFunctionMode):
    """Note which numbers Python reads from tensors that stood before the recording.

    While a function is recorded, torch computes with tensors of one number, so what is read from
    them, or from what follows from them, would become a constant; and it changes tensors in
    place where no argument of the function has a part in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, tuple[Tensor, Any]] = {}
        self._met: dict[int, tuple[Tensor, Tensor]] = {}
        self._following: dict[int, Tensor] = {}

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
            raise NotRecordable("it gives a tensor other data, where copy_ would change it")
        if func in _READING and tensors:
            return self._read(func, tensors[0], args, kwargs)
        found = func(*args, **kwargs)
        if isinstance(found, FakeTensor) and any(self._follows(tensor) for tensor in tensors):
            self._following[id(found)] = found
        return found

    def put_back(self) -> None:
        """Give the tensors that were changed their values back, the last one first."""
        with torch.no_grad():
            for tensor, value in reversed(self._met.values()):
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self._met and not (
                isinstance(tensor, FakeTensor) or tensor.is_meta
            ):
                with _disable_current_modes():
                    self._met[id(tensor)] = (tensor, tensor.detach().clone())

    def _follows(self, tensor: Tensor) -> bool:
        met = id(tensor) in self._met and _is_single(tensor)
        return id(tensor) in self._following or met

    def _read(self, func: Any, tensor: Tensor, args: Any, kwargs: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            if id(tensor) in self._following:
                raise NotRecordable(STEERS)
            return func(*args, **kwargs)
        if not _is_single(tensor):
            raise NotRecordable(STEERS)
        with _disable_current_modes():
            self.values[id(tensor)] = (tensor, self._met[id(tensor)][1].item())
        return func(*args, **kwargs)


def _writes(func: Any, kwargs: Any) -> bool:
    """Tell whether a function changes a tensor that it is given: then torch does so at once."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__i") or name == "__setitem__"
    return special or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs


def _sets_data(func: Any) -> bool:
    return getattr(func, "__name__", "") == "__set__" and func.__self__ is Tensor.data


def _is_single(tensor: Tensor) -> bool:
    """Tell whether a tensor is of one number and stood before the recording."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta) and tensor.numel() <= 1
