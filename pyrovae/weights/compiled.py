"""Run passes of the two programs as compiled graphs, one for each shape of the arguments.

The tensor operations of `run` are recorded once (see `pyrovae.graphs.capture`) and compiled. For
large K, all passes but the last have the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import pyro
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.capture import Recorded, record
from pyrovae.graphs.outside import detect_outside
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments, NotRecordable, ReadsOutside, ambient, settings
from pyrovae.graphs.tensors import are_stored, kind_of
from pyrovae.randomness import python_draws
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
        self._graphs: list[tuple[Any, _Watch, Recorded, Any]] = []
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
                self._graphs.append((key, _Watch(graph, reach), graph, structure))
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
            if then == key and watch.holds() and graph.reads_the_same():
                return graph, structure
        return None


class _Watch:
    """Watch the values a graph was recorded under, its tensors and those of Pyro's store."""

    def __init__(self, graph: Recorded, reach: Reach) -> None:
        self._tensors = graph.closed_over
        self._guards = reach.guards([*self._tensors, *(tensor for tensor, _ in graph.read)])
        read = set(map(id, self._tensors))
        stored = pyro.get_param_store()._params.items()
        self._stored = [(name, p) for name, p in stored if id(p) in read]
        self._kinds = list(map(kind_of, self._tensors))

    def holds(self) -> bool:
        """Tell whether all are as they were."""
        return (
            are_stored(self._stored)
            and list(map(kind_of, self._tensors)) == self._kinds
            and (self._guards.holds() or self._guards.changed() == [])
        )


def _record(
    programs: Sequence[Program], reach: Reach, given: Arguments, wanted: tuple[int, Read]
) -> tuple[Recorded, Any]:
    structure = None
    particles, read = wanted

    def terms(*tensors: Tensor) -> list[Tensor]:
        nonlocal structure
        x, context = given.refilled(iter(tensors), given.floats)
        model, guide = programs
        draws = python_draws()
        with detect_outside() as outside:
            found = run(model, guide, x, *context, particles=particles, read=read)
        if outside:
            raise ReadsOutside(f"the programs read {outside[0]} as they run")
        if python_draws() != draws:
            raise ReadsOutside("the programs draw from Python's or numpy's random generator")
        flat, structure = pytree.tree_flatten(found)
        return flat

    with torch.no_grad():
        graph = record(terms, given.inputs(given.floats), reach)
    return graph, structure
