"""Passes of the two programs as compiled graphs, one for each shape of the arguments.

What `weights.run` does to tensors is recorded once (see `recording`) and compiled; for large K all
passes but the last have one shape.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyrovae.recording import Recorded, record
from pyrovae.signatures import (
    NotRecordable,
    ambient,
    module_state,
    modules_of,
    refilled,
    signature,
    tensors_of,
)
from pyrovae.weights import Program, Terms, run

MAX_GRAPHS: Final = 2
"""How many shapes are compiled before the rest runs as it is."""


class CompiledRun:
    """Run passes of one model and guide as compiled graphs, one for each shape.

    A shape is recorded and compiled when it is first met (seconds), for at most `MAX_GRAPHS`
    shapes; the others, and programs that have no static graph, run as `run` runs them.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> runner = CompiledRun()
        >>> x = torch.zeros(5, 64)
        >>> pv.log_weights(vae.model, vae.guide, x, particles=100, runner=runner).shape
        torch.Size([100, 5])
    """

    def __init__(self) -> None:
        self._graphs: dict[Any, tuple[Recorded, Any]] = {}
        self._static = True

    def __call__(
        self, model: Program, guide: Program, x: Tensor, *context: Any, particles: int
    ) -> Terms:
        """Run both programs once on all of x and return the terms by site, without gradients."""
        recorded = self._recorded((model, guide), (x, context), particles)
        if recorded is None:
            return run(model, guide, x, *context, particles=particles)
        graph, structure = recorded
        return Terms(*pytree.tree_unflatten(graph(*tensors_of((x, context))), structure))

    def _recorded(
        self, programs: tuple[Program, Program], data: tuple[Tensor, Any], particles: int
    ) -> tuple[Recorded, Any] | None:
        """Return the graph for data of this shape and how its outputs are named, if it has one."""
        if ambient():
            return None
        modules = modules_of(*programs)
        try:
            key = (signature(data), particles, _names(*programs), module_state(modules))
            if key not in self._graphs and self._static and len(self._graphs) < MAX_GRAPHS:
                self._graphs[key] = _record(programs, modules, data, particles)
        except NotRecordable as reason:
            if self._static:
                warnings.warn(f"log-weights run uncompiled: {reason}", stacklevel=6)
            self._static = False
            return None
        return self._graphs.get(key)


def _record(
    programs: tuple[Program, Program],
    modules: list[nn.Module],
    data: tuple[Tensor, Any],
    particles: int,
) -> tuple[Recorded, Any]:
    structure = None

    def terms(*tensors: Tensor) -> list[Tensor]:
        nonlocal structure
        x, context = refilled(data, tensors)
        found = run(*programs, x, *context, particles=particles)
        flat, structure = pytree.tree_flatten((found.prior, found.likelihood, found.guide))
        return flat

    with torch.no_grad():
        graph = record(terms, tensors_of(data), modules)
    return graph, structure


def _names(*programs: Program) -> tuple[Any, ...]:
    """Return what tells programs apart: a method is made anew each time it is asked for."""
    return tuple(
        (id(getattr(program, "__self__", program)), getattr(program, "__name__", ""))
        for program in programs
    )
