"""Keep a recorded step together with everything that its graph holds for.

A graph is used while its arguments have the same shapes, the programs reach the same Python
values, and the parameters are the same tensors. A number that changes from step to step is an
input, and so is a tensor that is rebound in a single place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyrovae.graphs.capture import Recorded
from pyrovae.graphs.cuda import CudaStep
from pyrovae.graphs.guards import Guards
from pyrovae.graphs.holders import is_number
from pyrovae.graphs.signatures import Arguments
from pyrovae.graphs.tensors import are_stored, kind_of, same_kind, stored_among
from pyrovae.train.slots import Slot, slot_tensors
from pyrovae.train.supports import lies_in

__all__ = ["StepGraph", "has_hooks"]


@dataclass
class StepGraph:
    """A recorded step and what it holds for.

    Attributes:
        key: as in `EagerStep`.
        fixed: the floats among the arguments that are constants of the graph.
        varying: the floats among the arguments that are inputs.
        slots: the numbers elsewhere in Python that are inputs.
        run: the graph.
        announced: the parameters by name.
        trained: the tensors whose gradients the graph returns.
        guards: the guards of the Python values it was recorded under.
        sole: the indices of the tensors closed over that a single place holds, by id.
        flags: whether each parameter requires gradients.
        supports: the supports of observed inputs, by index; empty without validation.
        runs: how many times the graph was used.
        rounded: the number of checks in a row at which rounding alone made it differ.
        replay: the CUDA graph of the step, made for `clip_norm`.
        clip_norm: the norm that gradients are clipped to in `replay`.
    """

    key: Any
    fixed: dict[int, float]
    varying: set[int]
    slots: list[Slot]
    run: Recorded
    announced: dict[str, Tensor]
    trained: list[Tensor]
    guards: Guards
    sole: dict[int, int]
    flags: dict[Tensor, bool]
    supports: dict[int, Constraint]
    runs: int = 0
    rounded: int = 0
    replay: CudaStep | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Note the state of the parameters and of the tensors closed over."""
        self.parameters = list(dict.fromkeys(self.announced.values()))
        closed_over = set(map(id, self.run.closed_over))
        strays = {*self.trained} - {*self.parameters}
        self.strays = any(id(parameter) in closed_over for parameter in strays)
        stored = pyro.get_param_store()._params.items()
        read = {name: p for name, p in stored if id(p) in closed_over}
        self._stored = stored_among({**self.announced, **read})
        self._memory, self._kinds = self._addresses(), list(map(kind_of, self.run.closed_over))
        self._flagged, self._flags = list(self.flags), list(self.flags.values())

    def holds(self, key: Any, arguments: Arguments) -> bool:
        """Tell whether the graph does what an eager step with these arguments would do."""
        floats = arguments.floats
        return (
            self.key == key
            and all(floats[i] == value for i, value in self.fixed.items())
            and are_stored(self._stored)
            and self._flags == [p.requires_grad for p in self._flagged]
            and not any(map(has_hooks, self.trained))
            and (self.guards.holds() or self._follow())
            and (self._addresses() == self._memory or self._same_kinds())
            and all(is_number(holder.read(key)) for holder, key in self.slots)
            and self.run.reads_the_same()
        )

    def inputs(self, arguments: Arguments) -> list[Tensor]:
        """Return the inputs of the graph, without the tensors closed over."""
        given = arguments.inputs(self.varying)
        return given + slot_tensors(self.slots, given) if self.slots else given

    def accepts(self, inputs: Sequence[Tensor]) -> bool:
        """Tell whether the observed inputs lie in their supports."""
        return all(lies_in(support, inputs[i]) for i, support in self.supports.items())

    def due(self) -> bool:
        """Tell whether the next run is checked against an eager step.

        Runs 1, 2, 4, 8 ... are, and those after a check at which the graph differed by rounding.
        """
        return self.rounded > 0 or (self.runs + 1) & self.runs == 0

    def written(self) -> list[Tensor]:
        """Return the tensors closed over that a run changes in place."""
        return [self.run.closed_over[i] for i in self.run.written]

    def _addresses(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.run.closed_over))

    def _same_kinds(self) -> bool:
        """Tell whether tensors whose `data` was replaced have the shapes and types they had."""
        same = list(map(kind_of, self.run.closed_over)) == self._kinds
        if same:
            self._memory = self._addresses()
        return same

    def _follow(self) -> bool:
        """Read tensors that were rebound, if nothing else has changed."""
        changed = self.guards.changed()
        if changed is None:
            return False
        if not all(id(then) in self.sole and same_kind(then, now) for then, now in changed):
            return False
        for then, now in changed:
            place = self.sole[id(now)] = self.sole.pop(id(then))
            self.run.closed_over[place] = now
        self.guards.accept()
        return True


def has_hooks(parameter: Tensor) -> bool:
    """Tell whether a parameter has hooks that are called with its gradient."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
