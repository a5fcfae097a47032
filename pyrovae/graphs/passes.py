"""Passes over a recorded FX graph: its constants, its writes in place, its devices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.utils import _pytree as pytree

from pyrovae.graphs.signatures import NotRecordable

__all__ = [
    "check_written",
    "constants_of",
    "copy_of",
    "cpu_work_of",
    "epsilon_of",
    "gpu_among",
    "lift_constants",
    "same_constants",
    "written_by",
]


def gpu_among(tensors: Sequence[Any]) -> torch.device | None:
    """Return the GPU that a graph runs on; None for the CPU."""
    devices = {tensor.device for tensor in tensors if getattr(tensor, "is_cuda", False)}
    if len(devices) > 1:
        raise NotRecordable(f"it runs on several GPUs: {sorted(map(str, devices))}")
    return next(iter(devices), None)


def epsilon_of(module: GraphModule) -> float:
    """Return the machine epsilon of the coarsest floating dtype that a graph computes in."""
    found = [node.meta.get("val") for node in module.graph.nodes]
    dtypes = {value.dtype for value in found if isinstance(value, Tensor)}
    return max((torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=0.0)


def check_written(module: GraphModule, tensors: Sequence[Tensor]) -> None:
    """Refuse a graph on a GPU that writes to a tensor of the CPU: it would write to a copy."""
    for i, name in written_by(module).items():
        if not tensors[i].is_cuda:
            raise NotRecordable(
                f"it changes a tensor of the CPU in place, by {name}, and runs on a GPU"
            )


def written_by(module: GraphModule) -> dict[int, str]:
    """Return the inputs that a graph writes to, directly or through a view, and the operations."""
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
                # The schema of batch normalization does not declare its writes to the statistics.
                if argument.name in ("running_mean", "running_var"):
                    written.setdefault(source[value], str(node.target))
                if argument.alias_info is not None:
                    if argument.alias_info.is_write:
                        written.setdefault(source[value], str(node.target))
                    source[node] = source[value]
    return written


def cpu_work_of(module: GraphModule, tensors: Sequence[Tensor]) -> str:
    """Name an operation of the CPU that draws or reads results of the GPU; "" without one."""
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


def constants_of(graph: GraphModule) -> list[Any]:
    """Return the objects that a graph closes over."""
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [functools.reduce(getattr, target.split("."), graph) for target in targets]


def same_constants(graph: GraphModule, again: GraphModule) -> bool:
    """Tell whether two recordings close over the same or equal tensors."""
    pairs = zip(constants_of(graph), constants_of(again), strict=True)
    return all(one is other or _equal(one, other) for one, other in pairs)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def copy_of(module: GraphModule) -> GraphModule:
    """Copy a graph that closes over nothing."""
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return GraphModule(nn.Module(), graph)


def lift_constants(module: GraphModule) -> list[Tensor]:
    """Turn the tensors that a graph closes over into inputs, after its arguments."""
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
            last[-1].meta.update(node.meta)
            found[id(tensor)] = (last[-1], tensor)
        node.replace_all_uses_with(found[id(tensor)][0])
        graph.erase_node(node)
    module.recompile()
    return [tensor for _, tensor in found.values()]
