"""Compute the matrix products of a graph by oneDNN where it is faster than torch's own.

On some processors torch's float32 product runs at half the speed of oneDNN's, which torch ships
but uses only for layers with constant weights. One measurement per process decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyrovae.randomness import generators_kept

__all__ = ["ADVANTAGE", "choose", "is_faster", "measured", "route_products"]

ADVANTAGE: Final = 1.3
"""The speed-up by oneDNN from which its products are used."""

_OPERATION: Final = "_linear_pointwise"

_library = torch.library.Library("pyrovae", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_library.impl("linear", _linear, "CPU")
torch.library.register_fake("pyrovae::linear", _linear_shape, lib=_library)


def route_products(module: GraphModule) -> None:
    """Replace the float32 products of a graph by oneDNN's, if these are faster here."""
    products = [node for node in module.graph.nodes if _is_product(node)]
    if not products or not is_faster():
        return
    for node in products:
        *bias, left, right = node.args
        with module.graph.inserting_before(node):
            weight = module.graph.call_function(torch.ops.aten.t.default, (right,))
            routed = module.graph.call_function(
                torch.ops.pyrovae.linear.default, (left, weight, bias[0] if bias else None)
            )
        node.replace_all_uses_with(routed)
        module.graph.erase_node(node)
    module.recompile()


_decided: list[bool] = []
"""The decision of this process, once it is made."""


def is_faster() -> bool:
    """Tell whether oneDNN multiplies at least `ADVANTAGE` times as fast as torch here."""
    if not _decided:
        _decided.append(_measure())
    return _decided[0]


def measured() -> bool | None:
    """Return the decision of this process; None before it is made."""
    return _decided[0] if _decided else None


def choose(faster: bool) -> None:  # noqa: FBT001
    """Decide as another process did, whose graphs are to be computed again bit for bit."""
    _decided[:] = [faster]


def _measure() -> bool:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, _OPERATION)):
        return False
    with generators_kept(), torch.no_grad():
        x, weight = torch.randn(100, 784), torch.randn(400, 784)
    torchs = _seconds(lambda: torch.mm(x, weight.t()))
    return torchs > ADVANTAGE * _seconds(lambda: _linear(x, weight, None))


def _seconds(run: Callable[[], Any]) -> float:
    """Return the shortest time of twenty runs, after two to warm up."""
    times = []
    for _ in range(22):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def _is_product(node: Node) -> bool:
    if node.target not in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        return False
    values = [argument.meta["val"] for argument in node.args if isinstance(argument, Node)]
    *bias, left, right = values
    return (
        not node.kwargs
        and all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values)
        and left.shape[1] > 0
        and all(1 in matrix.stride() for matrix in (left, right))
        and all(b.shape == right.shape[1:] and b.is_contiguous() for b in bias)
    )
