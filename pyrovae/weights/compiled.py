"""Run passes of the two programs as compiled graphs, one for each shape of the arguments.

The tensor operations of `run` are recorded once (see `pyrovae.graphs.capture`) and compiled. For
large K, all passes but the last have the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.capture import Recorded, record
from pyrovae.graphs.guards import Guards
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments, NotRecordable, ambient, settings
from pyrovae.types import ContextValue, Program
from pyrovae.weights.particles import Settled
from pyrovae.weights.run import TERMS, Read, run

__all__ = ["MAX_GRAPHS", "CompiledRun"]

MAX_GRAPHS: Final = 2
"""The largest number of shapes that are compiled. Further shapes run uncompiled."""


class CompiledRun:
    """A runner that compiles the passes of one model and guide, one graph for each shape.

    The first pass of a shape records and compiles it, which takes seconds. At most 2
    shapes are compiled. Other shapes, and programs without a static graph, run as by `run`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> runner = pv.CompiledRun()
        >>> x = torch.zeros(5, 64)
        >>> pv.log_weights(vae, x, particles=100, runner=runner).shape
        torch.Size([100, 5])
    """

    def __init__(self) -> None:
        self._graphs: list[tuple[Any, Guards, Recorded, Any]] = []
        self._static = True

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        *context: ContextValue,
        particles: int,
        read: Read = TERMS,
    ) -> Any:
        """Run both programs once on all of x and return `read(pair)`, without gradients.

        Arguments and errors are as of `pyrovae.weights.run.run`. A program that cannot be
        recorded raises a warning once, and runs uncompiled.
        """
        recorded = self._recorded((model, guide), (x, context), (particles, read))
        if recorded is None:
            return run(model, guide, x, *context, particles=particles, read=read)
        graph, structure, inputs = recorded
        return pytree.tree_unflatten(graph(*inputs), structure)

    def _recorded(
        self,
        programs: tuple[Program, Program],
        data: tuple[Tensor, Any],
        wanted: tuple[int, Read],
    ) -> tuple[Recorded, Any, list[Tensor]] | None:
        """Return the graph for this shape, the structure of its outputs, and its inputs."""
        if ambient() or not (self._static or self._graphs):
            return None
        settled = [Settled(program, wanted[0], data[0], *data[1]) for program in programs]
        ways = tuple(program.scales is None for program in settled)
        try:
            given = Arguments(data)
            key = (programs, ways, wanted, settings(), given.shape)
            found = self._standing(key)
            if found is None and self._static and len(self._graphs) < MAX_GRAPHS:
                reach = Reach([*programs, *given.objects()])
                graph, structure = _record(settled, reach, given, wanted)
                self._graphs.append((key, reach.guards(graph.closed_over), graph, structure))
                found = graph, structure
        except NotRecordable as reason:
            if self._static:
                warnings.warn(f"log-weights run uncompiled: {reason}", stacklevel=6)
            self._static = False
            return None
        return None if found is None else (*found, given.inputs(given.floats))

    def _standing(self, key: Any) -> tuple[Recorded, Any] | None:
        """Return the graph of a key if what Python read to record it is unchanged."""
        for then, watch, graph, structure in self._graphs:
            held = then == key and (watch.holds() or watch.changed() == [])
            if held and graph.reads_the_same():
                return graph, structure
        return None


def _record(
    programs: Sequence[Program], reach: Reach, given: Arguments, wanted: tuple[int, Read]
) -> tuple[Recorded, Any]:
    structure = None
    particles, read = wanted

    def terms(*tensors: Tensor) -> list[Tensor]:
        nonlocal structure
        x, context = given.refilled(iter(tensors), given.floats)
        model, guide = programs
        found = run(model, guide, x, *context, particles=particles, read=read)
        flat, structure = pytree.tree_flatten(found)
        return flat

    with torch.no_grad():
        graph = record(terms, given.inputs(given.floats), reach)
    return graph, structure
