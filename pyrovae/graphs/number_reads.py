"""Note the numbers that Python reads from tensors while a function is recorded.

While it records, torch computes eagerly with tensors of one number that existed before. What
Python reads from them is a constant of the graph, which holds only while they keep these values;
and they have to be restored where the function has changed them in place. So is what torch itself
reads where it asks for a number: an index, a bound of a slice, the value of `torch.full`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyrovae.graphs.signatures import NotRecordable

__all__ = ["BRANCHES", "InnerReads", "NumberReads", "same_number"]

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
        Tensor.__repr__,
        Tensor.__format__,
    }
)
_MAKING: Final = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})
"""Functions that read the numbers of tensors in a list, out of sight of a dispatch mode."""


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
        if func in _MAKING:
            listed = [a for a in args if isinstance(a, list | tuple)]
            self.note(a for a in pytree.tree_leaves(listed) if isinstance(a, Tensor))
        found = func(*args, **kwargs)
        self.follow(tensors, found)
        return found

    def follow(self, tensors: Sequence[Tensor], found: Any) -> None:
        """Note that tensors were computed from others, if the numbers of these may be read."""
        if any(self._is_derived(tensor) for tensor in tensors):
            made = (t for t in pytree.tree_leaves(found) if isinstance(t, FakeTensor))
            self._derived.update((id(tensor), tensor) for tensor in made)

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Note that the numbers of tensors are read, which are constants of the graph.

        Raises:
            NotRecordable: if a tensor has several numbers, or is computed from others.
        """
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                if id(tensor) in self._derived:
                    raise NotRecordable(BRANCHES)
            elif _is_single(tensor):
                self._keep([tensor])
                self._note(tensor)
            else:
                raise NotRecordable(BRANCHES)

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
        self.note([tensor])
        return func(*args, **kwargs)

    def _note(self, tensor: Tensor) -> None:
        with _disable_current_modes():
            if tensor.numel():
                self.values[id(tensor)] = (tensor, self._before[id(tensor)][1].item())


class InnerReads(TorchDispatchMode):
    """Intercept the reads of torch's own functions, which no method of a tensor shows.

    Args:
        reads: notes the numbers.
    """

    def __init__(self, reads: NumberReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if torch.Tag.data_dependent_output in func.tags:
            self._reads.note(tensors)
        found = func(*args, **(kwargs or {}))
        self._reads.follow(tensors, found)
        return found


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
