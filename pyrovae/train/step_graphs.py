"""A recorded step, what it holds for, and how it is held against a step of Pyro's.

A graph answers for a step while its arguments have the same shapes, every Python value that the
programs can reach stands where it stood, and the parameters are the same tensors. A number that
changes from step to step becomes an input; so does a tensor that is rebound in one place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.utils import _pytree as pytree

from pyrovae.graphs.capture import Recorded
from pyrovae.graphs.cuda import CudaStep
from pyrovae.graphs.guards import Guards
from pyrovae.graphs.holders import Holder, is_number
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments, float_type

Slot = tuple[Holder, Any]
Place = tuple[int, Any]

LOSS_TOLERANCE: Final = 1e-3
GRADIENT_TOLERANCE: Final = 1e-3
"""Relative differences above rounding: sums of 10^5 single-precision terms differ by 1e-5."""


@dataclass
class Sight:
    """What a step in Pyro's own way showed: the state of Python after it, and what it changed.

    Attributes:
        key: the programs, the shapes of the arguments and the settings.
        floats: the floats among the arguments.
        reach: the values that the programs can reach.
        announced: the parameters, by the names that they were announced under.
        disturbed: what the step itself changed in Python.
        varying: which floats among the arguments were seen to change.
        disturbances: how many steps in a row changed something.
    """

    key: Any
    floats: Mapping[int, float]
    reach: Reach
    announced: dict[str, Tensor]
    disturbed: list[str]
    varying: set[int] = field(default_factory=set)
    disturbances: int = 0

    def __post_init__(self) -> None:
        """Note how the parameters stood, in the modules and in Pyro's store."""
        self.flags = {
            p: p.requires_grad for p in (*self.reach.parameters, *self.announced.values())
        }
        self._stored = _stored(self.announced)

    def settled(self, arguments: Arguments, slots: Collection[Place]) -> bool:
        """Tell whether a step now starts from what this one left, so that it can be recorded."""
        grown = any(holder.grown() for holder in self.reach.holders)
        flags = all(p.requires_grad is flag for p, flag in self.flags.items())
        if self.disturbed or grown or self.reach.refilled():
            return False
        if not (flags and _stand(self._stored)):
            return False
        fixed = {i for i in self.floats if i not in self.varying}
        return all(self.floats[i] == arguments.floats[i] for i in fixed) and all(
            (id(holder.at), key) in slots or (_same_kind(then, now) and self._is_sole(now))
            for holder, key, then, now in self.reach.changed()
        )

    def _is_sole(self, tensor: Tensor) -> bool:
        """Tell whether a tensor stands in one place, so that a graph can follow it there."""
        places = ((holder, key) for holder in self.reach.holders for key in holder.keys)
        return sum(holder.read(key) is tensor for holder, key in places) == 1

    def numbers_changed(self) -> list[Slot]:
        """Return the places where a float is another one than the step left."""
        return [
            (holder, key)
            for holder, key, then, now in self.reach.changed()
            if is_number(then) and is_number(now) and isinstance(then + now, float)
        ]


@dataclass
class StepGraph:
    """A recorded step and all that it holds for.

    Attributes:
        key: as of `Sight`.
        fixed: the floats among the arguments that are constants of the graph.
        varying: those that are inputs.
        slots: numbers that Python keeps elsewhere and that are inputs.
        run: the graph.
        announced: the parameters by name.
        trained: those whose gradients the graph returns.
        watch: over the Python values that it was recorded under.
        sole: where a tensor that the graph closes over stands, if that is in one place.
        flags: which parameters, of the modules too, asked for gradients.
        supports: of the inputs that are observed as they are, where validation asks for them.
    """

    key: Any
    fixed: dict[int, float]
    varying: set[int]
    slots: list[Slot]
    run: Recorded
    announced: dict[str, Tensor]
    trained: list[Tensor]
    watch: Guards
    sole: dict[int, int]
    flags: dict[Tensor, bool]
    supports: dict[int, Constraint]
    runs: int = 0
    replay: CudaStep | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Note how the parameters stood."""
        self.parameters = list(dict.fromkeys(self.announced.values()))
        closed_over = set(map(id, self.run.closed_over))
        strays = {*self.trained} - {*self.parameters}
        self.strays = any(id(parameter) in closed_over for parameter in strays)
        stored = pyro.get_param_store()._params.items()
        read = {name: p for name, p in stored if id(p) in closed_over}
        self._stored = _stored({**self.announced, **read})
        self._memory, self._kinds = self._places(), list(map(_kind, self.run.closed_over))
        self._flagged, self._flags = list(self.flags), list(self.flags.values())

    def holds(self, key: Any, arguments: Arguments) -> bool:
        """Tell whether the graph is what a step with these arguments would do now."""
        floats = arguments.floats
        return (
            self.key == key
            and all(floats[i] == value for i, value in self.fixed.items())
            and _stand(self._stored)
            and self._flags == [p.requires_grad for p in self._flagged]
            and not any(map(has_hooks, self.trained))
            and (self.watch.holds() or self._follow())
            and (self._places() == self._memory or self._same_kinds())
            and all(is_number(holder.read(key)) for holder, key in self.slots)
            and all(_same_number(tensor.item(), value) for tensor, value in self.run.read)
        )

    def inputs(self, arguments: Arguments) -> list[Tensor]:
        """Return the tensors that the graph takes before what it closes over."""
        given = arguments.inputs(self.varying)
        return given + slot_tensors(self.slots, given) if self.slots else given

    def accepts(self, inputs: Sequence[Tensor]) -> bool:
        """Tell whether what is observed lies in its support."""
        return all(_lies_in(support, inputs[i]) for i, support in self.supports.items())

    def due(self) -> bool:
        """Tell whether the next run is held beside Pyro's step: the first, second, fourth ..."""
        return (self.runs + 1) & self.runs == 0

    def written(self) -> list[Tensor]:
        """Return the tensors that a run changes in place."""
        return [self.run.closed_over[i] for i in self.run.written]

    def _places(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.run.closed_over))

    def _same_kinds(self) -> bool:
        """Tell whether tensors whose `data` are others have the shapes and types they had."""
        same = list(map(_kind, self.run.closed_over)) == self._kinds
        if same:
            self._memory = self._places()
        return same

    def _follow(self) -> bool:
        """Take up tensors that were rebound, each in the one place where it stands."""
        changed = self.watch.changed()
        if changed is None:
            return False
        if not all(id(then) in self.sole and _same_kind(then, now) for then, now in changed):
            return False
        for then, now in changed:
            place = self.sole[id(now)] = self.sole.pop(id(then))
            self.run.closed_over[place] = now
        self.watch.note()
        return True


def _stored(announced: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return those of the parameters that stand in Pyro's store."""
    store = pyro.get_param_store()._params
    return [(name, p) for name, p in announced.items() if store.get(name) is p]


def _stand(stored: Sequence[tuple[str, Tensor]]) -> bool:
    """Tell whether parameters stand in Pyro's store still."""
    store = pyro.get_param_store()._params
    return all(store.get(name) is parameter for name, parameter in stored)


def supports_of(
    checked: Sequence[tuple[Any, Constraint]], inputs: Sequence[Tensor]
) -> dict[int, Constraint]:
    """Return the supports of the inputs among the values that distributions checked.

    A NaN shows in the loss, so that real numbers are not asked for; neither is a support with
    bounds that the program computes.
    """
    where = {id(tensor): i for i, tensor in enumerate(inputs)}
    return {
        where[id(value)]: support
        for value, support in checked
        if id(value) in where and not _is_real(support) and _is_fixed(support)
    }


def _lies_in(support: Constraint, value: Tensor) -> bool:
    """Tell whether all values lie in a support; an infinite one shows in the loss."""
    if _innermost(support) is constraints.boolean and value.is_floating_point():
        return torch.equal(value, value.square())  # 0 and 1 alone; a third of the check's time
    return bool(support.check(value).all())


def _innermost(support: Any) -> Any:
    return getattr(support, "base_constraint", support)


def _is_real(support: Constraint) -> bool:
    inner = _innermost(support)
    return inner is constraints.real or isinstance(inner, type(constraints.real))


def _is_fixed(support: Constraint) -> bool:
    held = vars(support).values()
    return not any(
        isinstance(value, Tensor) or (isinstance(value, Constraint) and not _is_fixed(value))
        for value in held
    )


def slot_tensors(slots: Sequence[Slot], given: Sequence[Any]) -> list[Tensor]:
    """Return the numbers in the slots as tensors, in double among doubles."""
    dtype = float_type(given)
    return [torch.tensor(float(holder.read(key)), dtype=dtype) for holder, key in slots]


@contextlib.contextmanager
def standing(slots: Sequence[Slot], tensors: Iterator[Tensor]) -> Iterator[None]:
    """Put tensors where the programs find numbers, for the block."""
    before = [holder.read(key) for holder, key in slots]
    try:
        for holder, key in slots:
            holder.write(key, next(tensors))
        yield
    finally:
        for (holder, key), value in zip(slots, before, strict=True):
            holder.write(key, value)


def sole_places(
    reach: Reach, closed_over: Sequence[Tensor], kept: Sequence[Tensor]
) -> dict[int, int]:
    """Return the tensors closed over that stand in one place, by id; those kept do not move."""
    counts: dict[int, int] = {}
    for holder in reach.holders:
        for value in holder.values:
            counts[id(value)] = counts.get(id(value), 0) + isinstance(value, Tensor)
    fixed = {id(tensor) for tensor in kept}
    return {
        id(tensor): i
        for i, tensor in enumerate(closed_over)
        if counts.get(id(tensor)) == 1 and id(tensor) not in fixed
    }


def differences(
    losses: tuple[Any, Any], gradients: Mapping[str, tuple[Tensor | None, Tensor | None]]
) -> str:
    """Name what differs, beyond rounding, between a graph's step and Pyro's; "" where nothing."""
    for found, wanted in zip(*map(pytree.tree_leaves, losses), strict=True):
        if not _close(float(found), float(wanted)):
            return f"the loss is {float(found):.6g}, for {float(wanted):.6g}"
    present = [w for _, w in gradients.values() if w is not None and w.layout == torch.strided]
    most = max((_largest(wanted) for wanted in present), default=0.0)
    for name, (found, wanted) in gradients.items():
        if (found is None) != (wanted is None):
            return f"the gradient of {name} is {'missing' if found is None else 'one too many'}"
        if found is None or wanted is None:
            continue
        if wanted.layout != torch.strided:
            return f"the gradient of {name} is sparse"
        allowed = GRADIENT_TOLERANCE * _largest(wanted) + 1e-5 * most
        away = _largest(found.to(wanted.dtype) - wanted)
        if math.isfinite(most) and not away <= allowed:
            return f"the gradient of {name} differs by {away:.3g}, of {_largest(wanted):.3g}"
    return ""


def _close(found: float, wanted: float) -> bool:
    if not (math.isfinite(found) and math.isfinite(wanted)):
        return _same_number(found, wanted)
    return abs(found - wanted) <= LOSS_TOLERANCE * abs(wanted) + LOSS_TOLERANCE


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def _same_number(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


def _same_kind(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and type(one) is type(other)
        and not other.requires_grad
        and _kind(one) == _kind(other)
    )


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def has_hooks(parameter: Tensor) -> bool:
    """Tell whether hooks are called as a parameter's gradient arrives."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
