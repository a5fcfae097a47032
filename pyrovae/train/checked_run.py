"""Check a run of a step's graph against an eager step from the same state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyrovae.train.comparison import differences
from pyrovae.train.step_graphs import StepGraph
from pyrovae.train.step_state import StepState

__all__ = ["checked_run"]


def checked_run(
    graph: StepGraph,
    inputs: Sequence[Tensor],
    eager_gradients: Callable[[], tuple[Any, dict[str, Tensor]]],
) -> tuple[Any, dict[str, Tensor], str]:
    """Run a graph, restore the state, take an eager step, and compare the two.

    Args:
        graph: of the step.
        inputs: of the graph.
        eager_gradients: returns the loss and the parameters by name, with their gradients.

    Returns:
        The loss and the parameters of the eager step, and a description of the first difference,
        "" if there is none.
    """
    before = StepState(graph, inputs)
    found, grads = graph.run.on(graph.run.placed(inputs))
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
        return loss, announced, "the programs have other parameters"
    names = {parameter: name for name, parameter in graph.announced.items()}
    named = [names.get(p, f"tensor {i}") for i, p in enumerate(graph.trained)]
    pairs = dict(zip(named, zip(grads, wanted, strict=True), strict=True))
    different = differences((found, loss), pairs, epsilon=graph.run.epsilon)
    different = different or after.differs(StepState(graph, inputs))
    return loss, announced, different
