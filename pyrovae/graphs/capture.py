"""Record what a Pyro program does to tensors as a graph of operations, and compile it.

Effect handlers run in Python at every step, and leave only arithmetic behind. `record` runs a
function once on fake tensors, which have shapes but no values, keeps the operations, and compiles
them by `torch.compile`. Tensors that the function closes over become inputs, so that the graph
reads their present values. Random numbers are drawn by the same operations, in the same order.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyrovae.graphs.number_reads import BRANCHES, InnerReads, NumberReads, same_number
from pyrovae.graphs.onednn import route_products
from pyrovae.graphs.passes import (
    check_written,
    constants_of,
    copy_of,
    cpu_work_of,
    epsilon_of,
    gpu_among,
    lift_constants,
    same_constants,
    written_by,
)
from pyrovae.graphs.quiet import without_cuda_notice
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import NotRecordable, ReadsOutside, TooLarge
from pyrovae.randomness import generators_kept

__all__ = ["Recorded", "record"]

LARGEST: Final = 1500
"""The most operations of a graph that is compiled: each takes tens of milliseconds to compile.

A step of a VAE of perceptrons has 150 operations, one of a deep ladder 1,500, and one of a
state-space model 110 for each step of its sequences.
"""

_LIBRARIES: Final = tuple(
    str(Path(module.__file__ or "").parent) for module in (torch, pyro, contextlib)
)
_RECORDERS: Final = tuple(str(Path(__file__).parents[1] / name) for name in ("graphs", "train"))


@dataclass(frozen=True)
class Recorded:
    """A compiled function of tensors.

    Attributes:
        compiled: takes the inputs, then the tensors closed over.
        plain: the recorded operations one by one, which round as those of an eager run.
        closed_over: the tensors closed over, which each call reads anew.
        gpu: the GPU that the graph runs on, to which it moves tensors of the CPU; None on the CPU.
        cpu_work: on a GPU, an operation that runs on the CPU at each call; "" if none does.
        written: the indices of the tensors of `closed_over` that the graph changes in place.
        read: the tensors of one number that Python read, with the numbers the graph holds for.
        changed: the indices of the inputs that the graph changes in place.
        epsilon: the machine epsilon of the coarsest floating dtype of the graph.
    """

    compiled: Callable[..., Any]
    plain: Callable[..., Any]
    closed_over: list[Tensor]
    gpu: torch.device | None = None
    cpu_work: str = ""
    written: tuple[int, ...] = ()
    read: tuple[tuple[Tensor, Any], ...] = ()
    changed: tuple[int, ...] = ()
    epsilon: float = 0.0

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the graph, without recording gradients."""
        return self.on(self.placed(inputs))

    def reads_the_same(self) -> bool:
        """Tell whether the tensors that Python read still have the numbers it holds for."""
        return all(same_number(tensor.item(), value) for tensor, value in self.read)

    def placed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs and the tensors closed over, on the device of the graph."""
        tensors = [*inputs, *self.closed_over]
        return tensors if self.gpu is None else [tensor.to(self.gpu) for tensor in tensors]

    def on(self, tensors: Sequence[Tensor], *, compiled: bool = True) -> Any:
        """Run the graph on tensors that `placed` has returned."""
        with torch.no_grad():
            return (self.compiled if compiled else self.plain)(*tensors)


def record(function: Callable[..., Any], inputs: list[Tensor], reach: Reach) -> Recorded:
    """Record a function of tensors and compile it for inputs of these shapes.

    The function is recorded twice, and refused if the recordings differ. Compiling runs the graph
    once, on copies.

    Args:
        function: takes tensors and returns tensors.
        inputs: an example of its arguments.
        reach: the Python values that the function can reach, which are restored afterwards.

    Raises:
        NotRecordable: if the function has no static graph, or cannot be compiled here.
        TooLarge: if it has more than `LARGEST` operations.
    """
    if reach.failure:
        raise NotRecordable(reach.failure)
    if reach.iterators:
        raise NotRecordable(
            f"it can reach an iterator, {reach.iterators[0]}, which each run advances"
        )
    with _validation_kept(), without_cuda_notice():
        graph, read = _trace_twice(function, inputs, reach)
        gpu, cpu_work = gpu_among([*inputs, *constants_of(graph)]), ""
        if gpu is not None and read:
            raise NotRecordable(
                "Python reads a number from a tensor, which would wait for the GPU"
            )
        closed_over = lift_constants(graph)
        plain = copy_of(graph)
        if gpu is None:
            route_products(graph)
        else:
            check_written(graph, [*inputs, *closed_over])
            cpu_work = cpu_work_of(graph, [*inputs, *closed_over])
        compiled = torch.compile(
            graph, fullgraph=True, dynamic=False, options={"fallback_random": True}
        )
        _run_on_copies(Recorded(compiled, plain, closed_over, gpu), inputs)
    changes, n = written_by(graph), len(inputs)
    written = tuple(i - n for i in changes if i >= n)
    changed = tuple(i for i in changes if i < n)
    own = (written, read, changed, epsilon_of(graph))
    return Recorded(compiled, plain, closed_over, gpu, cpu_work, *own)


def _trace_twice(
    function: Callable[..., Any], inputs: list[Tensor], reach: Reach
) -> tuple[GraphModule, tuple[tuple[Tensor, Any], ...]]:
    """Return the graph of a function, and the tensors that Python reads with their numbers."""
    reads = NumberReads()
    try:
        graph, again = (_trace(function, inputs, reads) for _ in range(2))
    finally:
        reach.restore()
        reads.restore()
    if graph.code != again.code or not same_constants(graph, again):
        raise NotRecordable("two recordings of it differ, so its structure is not static")
    return graph, tuple(reads.values.values())


def _run_on_copies(recorded: Recorded, inputs: list[Tensor]) -> None:
    """Run a graph on copies of its inputs, which compiles it and changes nothing."""
    closed_over = [_copy(tensor) for tensor in recorded.closed_over]
    try:
        with generators_kept():
            replace(recorded, closed_over=closed_over)(*map(_copy, inputs))
    except Exception as error:
        raise NotRecordable(f"it cannot be compiled here ({_first_line(error)})") from error


@contextlib.contextmanager
def _validation_kept() -> Iterator[None]:
    """Restore torch's validation of distributions, which Dynamo switches off for the process."""
    before = torch.distributions.Distribution._validate_args
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def _trace(function: Callable[..., Any], inputs: list[Tensor], reads: NumberReads) -> GraphModule:
    def watched(*tensors: Tensor) -> Any:
        with InnerReads(reads):
            return function(*tensors)

    try:
        with pyro.validation_enabled(is_validate=False), generators_kept(), reads, _Counted():
            trace = make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)
            # Copies: arguments that are one tensor in this call may be two in the next.
            graph: GraphModule = trace(*(tensor.detach().clone() for tensor in inputs))
    except (TooLarge, ReadsOutside):
        raise
    except Exception as error:
        words = str(error) if isinstance(error, NotRecordable) else _in_words(error)
        raise NotRecordable(f"{_line_of(error)} ({words})") from error
    graph.graph.eliminate_dead_code()
    _check_size(sum(node.op == "call_function" for node in graph.graph.nodes))
    graph.recompile()
    return graph


class _Counted(TorchFunctionMode):
    """Stop a recording at more than `LARGEST` operations, before those of the gradients."""

    operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # Shapes, devices and other attributes, which programs read often, are no operations.
        if isinstance(found, Tensor) and func.__name__ != "__get__":
            self.operations += 1
            _check_size(self.operations)
        return found


def _check_size(operations: int) -> None:
    if operations > LARGEST:
        raise TooLarge(
            f"more than {LARGEST:,} operations would take minutes to compile; with compile=False "
            "nothing is tried"
        )


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor such that Dynamo does not recompile for the original."""
    once = tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())
    copy = tensor.detach()[once].clone().expand_as(tensor)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _line_of(error: Exception) -> str:
    """Return the innermost line of a traceback that belongs to no library."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if not f.filename.startswith((*_LIBRARIES, *_RECORDERS))]
    if not mine:
        return _first_line(error)
    return f"{mine[-1].filename}:{mine[-1].lineno}: {mine[-1].line}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    if "DataDependent" not in name:
        return name
    return f"{name}: {BRANCHES}"
