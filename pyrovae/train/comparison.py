"""Compare the loss and gradients of a compiled step with those of an eager step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.number_reads import same_number

__all__ = ["GRADIENT_TOLERANCE", "LOSS_TOLERANCE", "differences"]

LOSS_TOLERANCE: Final = 1e-3
GRADIENT_TOLERANCE: Final = 1e-3
"""Relative tolerances, above rounding: sums of 10^5 float32 terms differ by about 1e-5."""


def differences(
    losses: tuple[Any, Any],
    gradients: Mapping[str, tuple[Tensor | None, Tensor | None]],
    *,
    epsilon: float = 0.0,
) -> str:
    """Describe the first difference beyond rounding; "" if there is none.

    Args:
        losses: the loss of the graph and that of the eager step.
        gradients: likewise the gradients, by parameter.
        epsilon: the machine epsilon of the coarsest dtype that they are computed in. A gradient
            may differ by one rounding in it.
    """
    tolerance = max(GRADIENT_TOLERANCE, epsilon)
    for found, wanted in zip(*map(pytree.tree_leaves, losses), strict=True):
        if not _close(float(found), float(wanted)):
            return f"the loss is {float(found):.6g} and not {float(wanted):.6g}"
    most = max((_largest(w) for _, w in gradients.values() if w is not None), default=0.0)
    for name, (found, wanted) in gradients.items():
        if (found is None) != (wanted is None):
            return f"the gradient of {name} is {'missing' if found is None else 'not None'}"
        if found is None or wanted is None:
            continue
        allowed = tolerance * _largest(wanted) + 1e-5 * most
        away = _largest(found.to(wanted.dtype) - wanted)
        if math.isfinite(most) and not away <= allowed:
            return f"the gradient of {name} differs by {away:.3g} of {_largest(wanted):.3g}"
    return ""


def _close(found: float, wanted: float) -> bool:
    if not (math.isfinite(found) and math.isfinite(wanted)):
        return same_number(found, wanted)
    return abs(found - wanted) <= LOSS_TOLERANCE * abs(wanted) + LOSS_TOLERANCE


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
