"""Replay the graph of a step as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.cuda import CudaStep, Update
from pyrovae.train.optimizers import JoinedOptimizer
from pyrovae.train.step_graphs import StepGraph
from pyrovae.train.step_state import Gradients

__all__ = ["cuda_step"]


def cuda_step(
    graph: StepGraph,
    gradients: Gradients,
    *,
    update: Update,
    optimizer: Callable[[], JoinedOptimizer],
) -> CudaStep:
    """Return the CUDA graph of a step, which is captured when it is first called.

    Args:
        graph: the recorded step.
        gradients: accumulates the gradients.
        update: takes the optimizer's step and clears the gradients.
        optimizer: returns the optimizer.
    """

    def run(tensors: Sequence[Tensor]) -> Tensor:
        loss, grads = graph.run.on(tensors)
        gradients.add(graph.trained, grads)
        value: Tensor = pytree.tree_leaves(loss)[0]
        return value

    step = CudaStep(
        run,
        graph.run.closed_over,
        graph.parameters,
        update=update,
        optimizer=lambda: optimizer().joined_for(graph.parameters),
    )
    if graph.run.cpu_work:
        step.refuse(f"the CPU has a part in them, {graph.run.cpu_work}", stacklevel=6)
    return step
