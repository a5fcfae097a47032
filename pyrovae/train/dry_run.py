"""Run the programs on data before the first step, and explain in one sentence what fails."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.data.batches import Batch, Batches
from pyrovae.types import Program, Target
from pyrovae.weights.auxiliary import check_codes
from pyrovae.weights.run import run
from pyrovae.weights.sites import check_supports, one_line
from pyrovae.weights.stored import ParamSites
from pyrovae.weights.target import check_data, programs
from pyrovae.weights.traces import trace_guide, trace_model

__all__ = ["attempt", "check", "check_announced", "hidden_by_store", "sentence", "warn_if_far"]

FAR: Final = 10_000.0
"""The nats below 0, for each number of x, at which x counts as far from the likelihood.

A normal of scale 1 has as many at 141 deviations from its mean.
"""

_FAILURES: Final = (ValueError, RuntimeError, IndexError, TypeError)
"""The errors of programs that cannot take their data."""


def check(target: Target, batches: Batches) -> Batch:
    """Check the data, and run the programs on the first batch; return the batch.

    Raises:
        ValueError: if the programs cannot take the data.
    """
    model, guide = programs(target)
    if batches.tensors:
        check_data(target, *batches.tensors)
    first = next(iter(batches))
    check_data(target, *first)
    attempt(model, guide, first)
    return first


def warn_if_far(x: Tensor, log_w: Tensor) -> None:
    """Warn of real numbers that lie far from where the programs put them before training.

    Networks start with outputs of about 1, and gradient steps reach numbers of thousands late or
    never.

    Args:
        x: a batch of data, [N, ...].
        log_w: its log-weights in nats, [K, N].
    """
    each = log_w.mean().item() / max(1, x[0].numel())
    if -math.inf < each < -FAR:
        warnings.warn(
            f"before training, the ELBO is {each:.3g} nats for each number of x: x lies far from "
            "the likelihood, and training may never reach it. Standardize x, for a file of "
            "columns with pyrovae.data.load(file, table=True) or --data.table true",
            stacklevel=4,
        )


def attempt(model: Program, guide: Program, batch: Batch) -> None:
    """Run the programs on a batch.

    Raises:
        ValueError: if the programs fail, with the reason in one sentence.
    """
    try:
        with torch.no_grad():
            run(model, guide, *batch, particles=1)
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        _check_latents(model, guide, batch)
        x, *context = batch
        if context and _runs(model, guide, x):
            raise ValueError(
                "what follows x in the data is context for the programs, and these run on x alone "
                f"but not on {_shapes(batch)} ({one_line(error)}): give x by itself, data[0] of "
                "a tuple or pyrovae.data.Labeled(data, labels='drop') of a data set; or let the "
                "programs take it, labels='context'"
            ) from error
        if isinstance(error, TypeError) or (isinstance(error, ValueError) and len(x) > 1):
            raise
        raise ValueError(sentence(batch, error)) from error


def _check_latents(model: Program, guide: Program, batch: Batch) -> None:
    """Check the codes and the supports of the latent sites reached before the programs fail."""
    with torch.no_grad():
        try:
            guide_trace = trace_guide(guide, *batch, particles=1)
        except _FAILURES:
            return
        with poutine.trace() as met, contextlib.suppress(*_FAILURES):
            trace_model(model, *batch, particles=1, given=guide_trace)
    check_codes(met.trace, guide_trace)  # first: codes of another quantizer have its support
    check_supports(met.trace, guide_trace)


def _runs(model: Program, guide: Program, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            run(model, guide, x, particles=1)
    except _FAILURES:
        return False
    return True


def sentence(batch: Batch, error: Exception, where: str = "") -> str:
    """Return a one-line message about programs that fail on a batch."""
    said = f"the programs fail {where}on {_shapes(batch)}: {one_line(error)}"
    if len(batch[0]) == 1:
        said += ". One datum may be left for the last batch: choose another batch_size"
    return said


def _shapes(batch: Batch) -> str:
    x, *context = (
        f"{tuple(v.shape)} of {v.dtype}" if isinstance(v, Tensor) else type(v).__name__
        for v in batch
    )
    return f"x {x}" + (f" with the context {', '.join(context)}" if context else "")


def check_announced(log_w: Tensor, sites: ParamSites, hidden: list[str]) -> None:
    """Check that every parameter that the programs use has a param site.

    Raises:
        ValueError: if one has none, and would not be trained, or if there is no parameter.
    """
    parameters = sites.leaves
    known = {id(parameter) for parameter in parameters.values()}
    silent = [leaf for leaf in _leaves(log_w) if id(leaf) not in known]
    sites.check(lambda leaf: any(leaf is other for other in silent))
    if silent and hidden:
        raise ValueError(
            f"Pyro's store has another parameter under {hidden[0]!r}, of an earlier module of the "
            "same name, and would train that one: call pyro.clear_param_store() first, or give "
            "pyro.module another name"
        )
    if silent:
        raise ValueError(
            f"the programs use parameters of shapes {[tuple(leaf.shape) for leaf in silent]} that "
            "no part holds and that would be neither trained nor saved: make the function an "
            "nn.Module that holds its network, or call pyro.module on the network"
        )
    if not parameters:
        raise ValueError("neither program has a parameter to train")


def hidden_by_store(trace: Any) -> list[str]:
    """Return the names under which Pyro's store has another parameter than the programs."""
    return [
        name
        for name, site in trace.nodes.items()
        for given in site["args"][1:]
        if isinstance(given, nn.Parameter)
        and site["value"] is not given  # but is it, of a module with local parameters
        and site["value"].unconstrained() is not given
    ]


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the leaves of a tensor's autograd graph."""
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
