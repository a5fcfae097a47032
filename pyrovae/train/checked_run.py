"""Check a run of a step's graph against an eager step from the same state.

A compiled graph rounds in other places than an eager step. The gradient of a rectifier jumps where
its argument is zero, so that the gradients of a batch may differ by one datum's share where a
rounding changes a sign. The recorded operations, run one by one, round as the eager step does, and
tell such a difference from a graph that computes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrovae.train.comparison import differences
from pyrovae.train.step_graphs import StepGraph
from pyrovae.train.step_state import StepState

__all__ = ["Checked", "checked_run"]


@dataclass(frozen=True)
class Checked:
    """An eager step, and how the run of a graph differs from it.

    Attributes:
        loss: the loss of the eager step.
        announced: its parameters by name, with their gradients.
        different: a description of the first difference, "" if there is none.
        by_rounding: whether the recorded operations, run one by one, take the eager step, so that
            only their compiled form differs.
    """

    loss: Any
    announced: dict[str, Tensor]
    different: str = ""
    by_rounding: bool = False


def checked_run(
    graph: StepGraph,
    inputs: Sequence[Tensor],
    eager_gradients: Callable[[], tuple[Any, dict[str, Tensor]]],
) -> Checked:
    """Run a graph, restore the state, take an eager step, and compare the two.

    Args:
        graph: of the step.
        inputs: of the graph.
        eager_gradients: returns the loss and the parameters by name, with their gradients.
    """
    before = StepState(graph, inputs)
    found = graph.run.on(graph.run.placed(inputs))
    after = StepState(graph, inputs)
    before.restore()
    waiting = [parameter.grad for parameter in graph.trained]
    for parameter in graph.trained:
        parameter.grad = None
    try:
        loss, announced = eager_gradients()
        wanted = [parameter.grad for parameter in graph.trained]
    finally:
        for parameter, grad in zip(graph.trained, waiting, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else grad + parameter.grad
    if set(announced.values()) != set(graph.parameters):
        return Checked(loss, announced, "the programs have other parameters")
    eager = StepState(graph, inputs)
    different = _difference(graph, (found, after), ((loss, wanted), eager))
    if not different:
        return Checked(loss, announced)
    before.restore()
    found = graph.run.on(graph.run.placed(inputs), compiled=False)
    after = StepState(graph, inputs)
    eager.restore()
    by_rounding = not _difference(graph, (found, after), ((loss, wanted), eager))
    return Checked(loss, announced, different, by_rounding)


Taken = tuple[tuple[Any, Sequence[Tensor | None]], StepState]
"""The loss and the gradients of a step, and the state that it leaves."""


def _difference(graph: StepGraph, found: Taken, wanted: Taken) -> str:
    """Describe the first difference of two steps beyond rounding; "" if there is none."""
    ((loss, grads), after), ((eager_loss, eager_grads), eager_after) = found, wanted
    names = {parameter: name for name, parameter in graph.announced.items()}
    named = [names.get(p, f"tensor {i}") for i, p in enumerate(graph.trained)]
    pairs = dict(zip(named, zip(grads, eager_grads, strict=True), strict=True))
    different = differences((loss, eager_loss), pairs, epsilon=graph.run.epsilon)
    return different or after.differs(eager_after)
