"""Check the inputs of a graph that are observed against their supports, as Pyro validates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

__all__ = ["lies_in", "supports_of"]


def supports_of(
    checked: Sequence[tuple[Any, Constraint]], inputs: Sequence[Tensor]
) -> dict[int, Constraint]:
    """Return the supports of those inputs that distributions validated, by index.

    Real supports are left out, since a NaN shows in the loss, and so are supports whose bounds
    the program computes.
    """
    where = {id(tensor): i for i, tensor in enumerate(inputs)}
    return {
        where[id(value)]: support
        for value, support in checked
        if id(value) in where and not _is_real(support) and _is_fixed(support)
    }


def lies_in(support: Constraint, value: Tensor) -> bool:
    """Tell whether all values lie in a support."""
    if _innermost(support) is constraints.boolean and value.is_floating_point():
        return torch.equal(value, value.square())  # 0 and 1 alone; a third of the check's time
    return bool(support.check(value).all())


def _innermost(support: Any) -> Any:
    return getattr(support, "base_constraint", support)


def _is_real(support: Constraint) -> bool:
    inner = _innermost(support)
    return inner is constraints.real or isinstance(inner, type(constraints.real))


def _is_fixed(support: Constraint) -> bool:
    held = vars(support).values()
    return not any(
        isinstance(value, Tensor) or (isinstance(value, Constraint) and not _is_fixed(value))
        for value in held
    )
