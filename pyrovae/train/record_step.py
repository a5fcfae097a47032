"""Record `loss_and_grads` of an objective, gradients included, as the graph of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.utils import _pytree as pytree

from pyrovae.graphs.capture import record
from pyrovae.graphs.pyro_objective import PyroObjective
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments, NotRecordable
from pyrovae.train.eager_step import EagerStep
from pyrovae.train.slots import Slot, place_of, slot_tensors, tensors_in_slots
from pyrovae.train.step_graphs import StepGraph, has_hooks
from pyrovae.train.supports import supports_of

__all__ = ["record_step"]


def record_step(
    loss_and_grads: Callable[..., Any],
    step: EagerStep,
    *,
    arguments: Arguments,
    slots: list[Slot],
) -> StepGraph:
    """Record a step that starts from the state that an eager step left.

    Args:
        loss_and_grads: takes the arguments of a step, and leaves gradients in `grad`.
        step: the eager step.
        arguments: of the step to record.
        slots: the numbers elsewhere in Python that become inputs.

    Raises:
        NotRecordable: if the step has no static graph, or cannot be compiled here.
    """
    trained = _trained(step)
    if any(map(has_hooks, trained)):
        raise NotRecordable("a parameter has hooks on its gradient")
    varying = set(step.varying)
    given = arguments.inputs(varying)
    supports: dict[int, Constraint] = {}

    def traced(*tensors: Tensor) -> tuple[Any, tuple[Tensor | None, ...]]:
        left = iter(tensors)
        args, kwargs = arguments.refilled(left, varying)
        recording = PyroObjective(trained, validated=validated)
        with tensors_in_slots(slots, left), recording:
            loss = loss_and_grads(*args, **kwargs)
        supports.update(supports_of(recording.checked, tensors))
        loss = pytree.tree_map(torch.as_tensor, loss)
        # Without validation Pyro accepts any tensor as a scale.
        conditions = recording.positive if scales_validated else []
        return _undefined_unless(conditions, loss), tuple(recording.grads)

    validated = bool(torch.distributions.Distribution._validate_args)
    scales_validated = pyro.poutine.is_validation_enabled()
    run = record(traced, [*given, *slot_tensors(slots, given)], step.reach)
    if any(t.requires_grad and t.is_leaf for t in {*run.closed_over} - {*trained}):
        raise NotRecordable("a tensor that requires gradients is in no place that was searched")
    kept = [*step.announced.values(), *(run.closed_over[i] for i in run.written)]
    return StepGraph(
        key=step.key,
        fixed={i: v for i, v in arguments.floats.items() if i not in varying},
        varying=varying,
        slots=slots,
        run=run,
        announced=step.announced,
        trained=trained,
        guards=step.reach.guards(
            [*run.closed_over, *step.announced.values(), *(tensor for tensor, _ in run.read)],
            set(map(place_of, slots)),
        ),
        sole=_sole_places(step.reach, run.closed_over, kept),
        flags={**step.flags, **{p: p.requires_grad for p in trained}},
        supports=supports,
    )


def _trained(step: EagerStep) -> list[Tensor]:
    """Return the leaves that may have a gradient: those announced, reached, or in the store."""
    stored = pyro.get_param_store()._params.values()
    known = dict.fromkeys((*step.announced.values(), *step.reach.parameters, *stored))
    return [parameter for parameter in known if parameter.requires_grad and parameter.is_leaf]


def _undefined_unless(conditions: Sequence[Tensor], loss: Any) -> Any:
    """Make the loss NaN where a condition fails: the step is then taken eagerly."""
    if not conditions:
        return loss
    return pytree.tree_map(lambda value: _nan_unless(conditions, value), loss)


def _nan_unless(conditions: Sequence[Tensor], value: Tensor) -> Tensor:
    hold = torch.stack([condition.to(value.device) for condition in conditions]).all()
    return torch.where(hold, value, math.nan)


def _sole_places(
    reach: Reach, closed_over: Sequence[Tensor], kept: Sequence[Tensor]
) -> dict[int, int]:
    """Return the indices of the tensors closed over that a single place holds, by id.

    Tensors that are kept are left out: they are trained or written to.
    """
    counts: dict[int, int] = {}
    for holder in reach.holders:
        for value in holder.values:
            counts[id(value)] = counts.get(id(value), 0) + isinstance(value, Tensor)
    fixed = {id(tensor) for tensor in kept}
    return {
        id(tensor): i
        for i, tensor in enumerate(closed_over)
        if counts.get(id(tensor)) == reach.references[id(tensor)] == 1 and id(tensor) not in fixed
    }
