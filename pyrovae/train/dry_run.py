"""Run the programs on data before the first step, and say in one sentence why they cannot."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.data.batches import Batch, Batches
from pyrovae.vae import check_data, programs
from pyrovae.weights.log_weights import run, trace_guide, trace_model
from pyrovae.weights.sites import check_supports, one_line

_FAILURES: Final = (ValueError, RuntimeError, IndexError, TypeError)
"""What programs raise that cannot take their data."""


def check(target: Any, batches: Batches) -> Batch:
    """Hold all the data, if they are tensors, against the programs; run them on one batch.

    Raises:
        ValueError: if one does not go with the other.
    """
    model, guide = programs(target)
    if batches.tensors:
        check_data(target, *batches.tensors)
    first = next(iter(batches))
    check_data(target, *first)
    attempt(model, guide, first)
    return first


def attempt(model: Any, guide: Any, batch: Batch) -> None:
    """Run the programs on a batch.

    Raises:
        ValueError: if they cannot, saying in one sentence why.
    """
    try:
        with torch.no_grad():
            run(model, guide, *batch, particles=1)
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        _check_supports(model, guide, batch)
        x, *context = batch
        if context and _runs(model, guide, x):
            raise ValueError(
                "what follows x in the data is context for the programs, and these run on x alone "
                f"but not on {_shapes(batch)} ({one_line(error)}): give x by itself, data[0] of a "
                "tuple, torch.stack([item[0] for item in data]) of a data set"
            ) from error
        if isinstance(error, TypeError) or (isinstance(error, ValueError) and len(x) > 1):
            raise
        raise ValueError(sentence(batch, error)) from error


def _check_supports(model: Any, guide: Any, batch: Batch) -> None:
    """Hold the supports of the latents against each other as far as the programs come."""
    with torch.no_grad():
        try:
            guide_trace = trace_guide(guide, *batch, particles=1)
        except _FAILURES:
            return
        with poutine.trace() as met, contextlib.suppress(*_FAILURES):
            trace_model(model, *batch, particles=1, given=guide_trace)
    check_supports(met.trace, guide_trace)


def _runs(model: Any, guide: Any, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            run(model, guide, x, particles=1)
    except _FAILURES:
        return False
    return True


def sentence(batch: Batch, error: Exception, where: str = "") -> str:
    """Return what programs could not do with a batch, in one line."""
    said = f"the programs fail {where}on {_shapes(batch)}: {one_line(error)}"
    if len(batch[0]) == 1:
        said += ". One datum may be what is left for a last batch: choose another batch_size"
    return said


def _shapes(batch: Batch) -> str:
    x, *context = (
        f"{tuple(v.shape)} of {v.dtype}" if isinstance(v, Tensor) else type(v).__name__
        for v in batch
    )
    return f"x {x}" + (f" with the context {', '.join(context)}" if context else "")


def check_announced(log_w: Tensor, parameters: dict[str, Tensor], hidden: list[str]) -> None:
    """Find the parameters that the programs use and no optimiser would be told of."""
    known = {id(parameter) for parameter in parameters.values()}
    silent = [leaf for leaf in _leaves(log_w) if id(leaf) not in known]
    if silent and hidden:
        raise ValueError(
            f"Pyro's store holds another parameter than the program's under {hidden[0]!r}, of an "
            "earlier module of the same name, and would train that one: pyro.clear_param_store() "
            "first, or give pyro.module another name"
        )
    if silent:
        raise ValueError(
            f"the programs use parameters of shapes {[tuple(leaf.shape) for leaf in silent]} that "
            "no part holds, so that nothing would train or save them: make the function an "
            "nn.Module that holds its network, or announce it with pyro.module"
        )
    if not parameters:
        raise ValueError("neither program has a parameter to train")


def hidden_by_store(trace: Any) -> list[str]:
    """Name the parameters in whose place Pyro's store answered with another."""
    return [
        name
        for name, site in trace.nodes.items()
        for given in site["args"][1:]
        if isinstance(given, nn.Parameter) and site["value"].unconstrained() is not given
    ]


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that a value depends on and that ask for gradients."""
    waiting, seen, found = [tensor.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found
