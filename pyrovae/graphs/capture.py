"""Record what a Pyro program does to tensors, once, as a graph of plain operations.

Effect handlers are Python; what they leave behind is arithmetic. `record` runs a function on
tensors that have shapes but no values, keeps the operations, and compiles them with
`torch.compile`. Every tensor that the function closes over becomes an input of the graph, so a
value that changes in place is seen; random numbers are drawn by the operations that eager mode
would use, in the same order.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.graphs.number_reads import STEERS, NumberReads
from pyrovae.graphs.onednn import route_products
from pyrovae.graphs.passes import (
    check_written,
    constants_of,
    cpu_work_of,
    gpu_among,
    lift_constants,
    same_constants,
    written_by,
)
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import NotRecordable
from pyrovae.randomness import generators_kept

__all__ = ["Recorded", "record"]

_LIBRARIES: Final = tuple(
    str(Path(module.__file__ or "").parent) for module in (torch, pyro, contextlib)
)
_RECORDERS: Final = tuple(str(Path(__file__).parents[1] / name) for name in ("graphs", "train"))


@dataclass(frozen=True)
class Recorded:
    """A compiled function of tensors.

    Attributes:
        compiled: takes the inputs, then what the function closed over.
        closed_over: the tensors themselves, not copies: read anew at each call.
        gpu: where the graph runs if it runs on a GPU; a number that the CPU holds is moved there.
        cpu_work: beside a GPU, an operation that the CPU has to run anew at each call.
        written: which tensors of `closed_over` the graph changes in place.
        changed: which inputs it changes in place.
        read: tensors of one number that Python read, and the numbers: the graph holds for these.
    """

    compiled: Callable[..., Any]
    closed_over: list[Tensor]
    gpu: torch.device | None = None
    cpu_work: str = ""
    written: tuple[int, ...] = ()
    read: tuple[tuple[Tensor, Any], ...] = ()
    changed: tuple[int, ...] = ()

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the graph; gradients are among its outputs, not recorded through it."""
        return self.on(self.placed(inputs))

    def placed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs, and what was closed over, where the graph runs."""
        tensors = [*inputs, *self.closed_over]
        return tensors if self.gpu is None else [tensor.to(self.gpu) for tensor in tensors]

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """Run the graph on tensors that are placed."""
        with torch.no_grad():
            return self.compiled(*tensors)


def record(function: Callable[..., Any], inputs: list[Tensor], reach: Reach) -> Recorded:
    """Record a function and compile it for inputs of these shapes.

    The function is recorded twice: what Python does differently the second time, no graph can
    hold. Compiling runs it once on copies, so that nothing is changed by it.

    Args:
        function: of tensors; returns tensors.
        inputs: an example of its arguments.
        reach: the Python values that it can reach, which are put back after it has run.

    Raises:
        NotRecordable: if values steer the function, or it cannot be compiled here.
    """
    if reach.iterators:
        raise NotRecordable(
            f"it can reach an iterator, {reach.iterators[0]}, which a run advances"
        )
    with _validation_kept():
        reads = NumberReads()
        try:
            graph, again = (_trace(function, inputs, reads) for _ in range(2))
        finally:
            reach.put_back()
            reads.put_back()
        if graph.code != again.code or not same_constants(graph, again):
            raise NotRecordable(
                "two recordings of one step differ, so its structure is not static"
            )
        gpu, cpu_work = gpu_among([*inputs, *constants_of(graph)]), ""
        if gpu is None:
            route_products(graph)
        elif reads.values:
            raise NotRecordable("Python reads a number from a tensor, for which a GPU would wait")
        closed_over = lift_constants(graph)
        if gpu is not None:
            check_written(graph, [*inputs, *closed_over])
            cpu_work = cpu_work_of(graph, [*inputs, *closed_over])
        changes, n = written_by(graph), len(inputs)
        written = tuple(i - n for i in changes if i >= n)
        changed = tuple(i for i in changes if i < n)
        compiled = torch.compile(
            graph, fullgraph=True, dynamic=False, options={"fallback_random": True}
        )
        copies = Recorded(compiled, [_copy(tensor) for tensor in closed_over], gpu)
        try:
            with generators_kept():
                copies(*(_copy(tensor) for tensor in inputs))
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise NotRecordable(f"it cannot be compiled here ({line})") from error
    read = tuple(reads.values.values())
    return Recorded(compiled, closed_over, gpu, cpu_work, written, read, changed)


@contextlib.contextmanager
def _validation_kept() -> Iterator[None]:
    """Put back torch's validation of distributions, which Dynamo switches off for the process."""
    before = torch.distributions.Distribution._validate_args
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def _trace(function: Callable[..., Any], inputs: list[Tensor], reads: NumberReads) -> GraphModule:
    try:
        with pyro.validation_enabled(is_validate=False), generators_kept(), reads:
            trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
            # Copies: two arguments that are one tensor now need not be one in the next call.
            graph: GraphModule = trace(*(tensor.detach().clone() for tensor in inputs))
    except Exception as error:
        words = str(error) if isinstance(error, NotRecordable) else _in_words(error)
        raise NotRecordable(f"{_line_of(error)} ({words})") from error
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor so that Dynamo takes the copy and the tensor for arguments of one kind."""
    once = tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())
    copy = tensor.detach()[once].clone().expand_as(tensor)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _line_of(error: Exception) -> str:
    """Return the innermost line of an error's traceback that is nobody's library."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if not f.filename.startswith((*_LIBRARIES, *_RECORDERS))]
    if not mine:
        return str(error).strip().splitlines()[0] if str(error) else "its objective"
    return f"{mine[-1].filename}:{mine[-1].lineno}: {mine[-1].line}"


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    if "DataDependent" not in name:
        return name
    return f"{name}: {STEERS}"
