"""Record what a Pyro program does to tensors, once, as a graph of plain operations.

Effect handlers are Python; what they leave behind is arithmetic. `record` runs a function on
tensors that have shapes but no values, keeps the operations, and compiles them with
`torch.compile`. Every tensor that the function closes over becomes an input of the graph, so a
value that changes in place is seen; random numbers are drawn by the operations that eager mode
would use, in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyro
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions.constraints import Constraint
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from pyrovae.graphs.guards import Reach
from pyrovae.graphs.onednn import route_products
from pyrovae.graphs.signatures import NotRecordable
from pyrovae.randomness import generators_kept

_LIBRARIES: Final = tuple(
    str(Path(module.__file__ or "").parent) for module in (torch, pyro, contextlib)
)
_PYRO_INFER: Final = str(Path(pyro.__file__).parent / "infer")
_PYRO_UTILS: Final = (str(Path(pyro.__file__).parent / "util.py"), f"{_PYRO_INFER}/util.py")
_PACKAGE: Final = Path(__file__).parents[1]
_RECORDERS: Final = (__file__, str(_PACKAGE / "train" / "svi.py"))
_MODES: Final = (__file__, str(_PACKAGE / "objectives" / "gradients.py"))
_VALIDATION: Final = torch.distributions.distribution.__file__


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
        reads = _Reads()
        try:
            graph, again = (_trace(function, inputs, reads) for _ in range(2))
        finally:
            reach.put_back()
            reads.put_back()
        if graph.code != again.code or not _same_constants(graph, again):
            raise NotRecordable(
                "two recordings of one step differ, so its structure is not static"
            )
        gpu, cpu_work = _gpu_among([*inputs, *_constants(graph)]), ""
        if gpu is None:
            route_products(graph)
        elif reads.values:
            raise NotRecordable("Python reads a number from a tensor, for which a GPU would wait")
        closed_over = _lift_constants(graph)
        if gpu is not None:
            _check_written(graph, [*inputs, *closed_over])
            cpu_work = _cpu_work(graph, [*inputs, *closed_over])
        changes, n = _written(graph), len(inputs)
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


_STEERS: Final = (
    "a value decides there what Python does. torch.where keeps it in the graph; compile=False "
    "runs it as it is, and says nothing"
)
_READING: Final = frozenset(
    {
        Tensor.item,
        Tensor.tolist,
        Tensor.numpy,
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__int__,
        Tensor.__index__,
        Tensor.__complex__,
        Tensor.__array__,
    }
)


class _Reads(TorchFunctionMode):
    """Note which numbers Python reads from tensors that stood before the recording.

    While a function is recorded, torch computes with tensors of one number, so what is read from
    them, or from what follows from them, would become a constant; and it changes tensors in
    place where no argument of the function has a part in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, tuple[Tensor, Any]] = {}
        self._met: dict[int, tuple[Tensor, Tensor]] = {}
        self._following: dict[int, Tensor] = {}

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        self._keep(tensor for tensor in tensors if _is_single(tensor))
        if _writes(func, kwargs):
            given = pytree.tree_leaves((args, kwargs))
            self._keep(tensor for tensor in given if isinstance(tensor, Tensor))
        if _sets_data(func) and not isinstance(args[0], FakeTensor):
            raise NotRecordable("it gives a tensor other data, where copy_ would change it")
        if func in _READING and tensors:
            return self._read(func, tensors[0], args, kwargs)
        found = func(*args, **kwargs)
        if isinstance(found, FakeTensor) and any(self._follows(tensor) for tensor in tensors):
            self._following[id(found)] = found
        return found

    def put_back(self) -> None:
        """Give the tensors that were changed their values back, the last one first."""
        with torch.no_grad():
            for tensor, value in reversed(self._met.values()):
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self._met and not (
                isinstance(tensor, FakeTensor) or tensor.is_meta
            ):
                with _disable_current_modes():
                    self._met[id(tensor)] = (tensor, tensor.detach().clone())

    def _follows(self, tensor: Tensor) -> bool:
        met = id(tensor) in self._met and _is_single(tensor)
        return id(tensor) in self._following or met

    def _read(self, func: Any, tensor: Tensor, args: Any, kwargs: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            if id(tensor) in self._following:
                raise NotRecordable(_STEERS)
            return func(*args, **kwargs)
        if not _is_single(tensor):
            raise NotRecordable(_STEERS)
        with _disable_current_modes():
            self.values[id(tensor)] = (tensor, self._met[id(tensor)][1].item())
        return func(*args, **kwargs)


def _writes(func: Any, kwargs: Any) -> bool:
    """Tell whether a function changes a tensor that it is given: then torch does so at once."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__i") or name == "__setitem__"
    return special or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs


def _sets_data(func: Any) -> bool:
    return getattr(func, "__name__", "") == "__set__" and func.__self__ is Tensor.data


def _is_single(tensor: Tensor) -> bool:
    """Tell whether a tensor is of one number and stood before the recording."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta) and tensor.numel() <= 1


class PyroObjective(TorchFunctionMode):
    """Let an objective of Pyro run where tensors have no values yet.

    `backward` becomes `autograd.grad` with the gradients kept; `.item()` in Pyro's objectives
    gives the tensor itself; warnings about NaN are not asked for; and the entries that Pyro
    selects to leave out become zeros. A program's own `.item()` or `if` is left alone, and fails.

    Args:
        parameters: those whose gradients are kept, in `grads`.
        validated: whether `checked` notes the values that distributions check, and their support.
    """

    def __init__(self, parameters: list[Tensor], *, validated: bool = False) -> None:
        super().__init__()
        self.parameters = parameters
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self.checked: list[tuple[Any, Constraint]] = []
        self._validated = validated

    def __enter__(self) -> PyroObjective:
        """Let distributions check, or not."""
        self._before = torch.distributions.Distribution._validate_args
        torch.distributions.Distribution.set_default_validate_args(self._validated)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave validation as it was."""
        torch.distributions.Distribution.set_default_validate_args(self._before)
        super().__exit__(*error)

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self._backward(args[0], kwargs.get("retain_graph"))
        if func is Tensor.item and _caller().startswith(_PYRO_INFER):
            return args[0].detach()
        if func is Tensor.__bool__ and _caller() in _PYRO_UTILS:
            return False
        if func is Tensor.register_hook and _caller() in _PYRO_UTILS:
            return None  # it would look for a NaN as gradients arrive
        if func is Tensor.__bool__ and _caller() == _VALIDATION:
            met = _calling().f_locals
            if "value" in met and isinstance(met.get("support"), Constraint):
                self.checked.append((met["value"], met["support"]))
            return True
        if func is Tensor.masked_select and _caller() in _PYRO_UTILS:
            return torch.where(args[1], args[0], 0)
        return func(*args, **kwargs)

    def _backward(self, loss: Tensor, retain_graph: bool | None) -> None:  # noqa: FBT001
        found = torch.autograd.grad(
            loss, self.parameters, retain_graph=retain_graph, allow_unused=True
        )
        for i, grad in enumerate(found):
            kept = self.grads[i]
            self.grads[i] = grad if kept is None or grad is None else kept + grad
            if grad is None:
                self.grads[i] = kept


@contextlib.contextmanager
def _validation_kept() -> Iterator[None]:
    """Put back torch's validation of distributions, which Dynamo switches off for the process."""
    before = torch.distributions.Distribution._validate_args
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def _caller() -> str:
    """Return the file of the Python code that called the intercepted tensor method."""
    return _calling().f_code.co_filename


def _calling() -> FrameType:
    """Return the frame that called the intercepted method, behind other modes of the library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _MODES:
        frame = frame.f_back
    return frame or sys._getframe(1)


def _trace(function: Callable[..., Any], inputs: list[Tensor], reads: _Reads) -> GraphModule:
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
    return f"{name}: {_STEERS}"


def _gpu_among(tensors: Sequence[Any]) -> torch.device | None:
    """Return the GPU of a graph, or None for a graph of the CPU."""
    devices = {tensor.device for tensor in tensors if getattr(tensor, "is_cuda", False)}
    if len(devices) > 1:
        raise NotRecordable(f"it runs on several GPUs: {sorted(map(str, devices))}")
    return next(iter(devices), None)


def _check_written(module: GraphModule, tensors: Sequence[Tensor]) -> None:
    """Refuse a graph that changes a tensor of the CPU, of which the GPU is given a copy."""
    for i, name in _written(module).items():
        if not tensors[i].is_cuda:
            raise NotRecordable(f"it changes a tensor of the CPU beside a GPU, by {name}")


def _written(module: GraphModule) -> dict[int, str]:
    """Return the inputs that a graph changes in place, themselves or by a view, and by what."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    source = {node: i for i, node in enumerate(inputs)}
    written: dict[int, str] = {}
    for node in (node for node in module.graph.nodes if node.op == "call_function"):
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        given.update(node.kwargs)
        for argument in schema.arguments:
            for value in pytree.tree_leaves(given.get(argument.name)):
                if value not in source:
                    continue
                # The schema of batch normalisation does not say that it moves its statistics.
                if argument.name in ("running_mean", "running_var"):
                    written.setdefault(source[value], str(node.target))
                if argument.alias_info is not None:
                    if argument.alias_info.is_write:
                        written.setdefault(source[value], str(node.target))
                    source[node] = source[value]
    return written


def _cpu_work(module: GraphModule, tensors: Sequence[Tensor]) -> str:
    """Name an operation by which the CPU draws, or works on what the GPU found; "" without one."""
    nodes = module.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    places = {node: tensor.device.type for node, tensor in zip(inputs, tensors, strict=True)}
    for node in (node for node in nodes if node.op == "call_function"):
        found = [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        places[node] = next((t.device.type for t in found), "")
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        from_gpu = any(places.get(source) == "cuda" for source in node.all_input_nodes)
        if places[node] == "cpu" and (draws or from_gpu):
            return str(node.target)
    return ""


def _constants(graph: GraphModule) -> list[Any]:
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [functools.reduce(getattr, target.split("."), graph) for target in targets]


def _same_constants(graph: GraphModule, again: GraphModule) -> bool:
    """Tell whether two recordings closed over the same values, made anew or not."""
    pairs = zip(_constants(graph), _constants(again), strict=True)
    return all(one is other or _equal(one, other) for one, other in pairs)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def _lift_constants(module: GraphModule) -> list[Tensor]:
    """Make every tensor that a graph closes over an input of it, after the arguments."""
    graph = module.graph
    found: dict[int, tuple[Any, Tensor]] = {}
    last = [node for node in graph.nodes if node.op == "placeholder"]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        tensor: Any = functools.reduce(getattr, str(node.target).split("."), module)
        if not isinstance(tensor, Tensor):
            raise NotRecordable(f"it closes over a {type(tensor).__name__}")
        if id(tensor) not in found:
            place = graph.inserting_after(last[-1]) if last else graph.inserting_before()
            with place:
                last.append(graph.placeholder(f"closed_over_{len(found)}"))
            found[id(tensor)] = (last[-1], tensor)
        node.replace_all_uses_with(found[id(tensor)][0])
        graph.erase_node(node)
    module.recompile()
    return [tensor for _, tensor in found.values()]
