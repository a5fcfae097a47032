"""Tell whether a graph can go on reading the tensors that it was recorded with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor

__all__ = ["are_stored", "kind_of", "same_kind", "stored_among"]


def stored_among(announced: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the parameters that are in Pyro's store."""
    store = pyro.get_param_store()._params
    return [(name, p) for name, p in announced.items() if store.get(name) is p]


def are_stored(stored: Sequence[tuple[str, Tensor]]) -> bool:
    """Tell whether parameters are still in Pyro's store."""
    store = pyro.get_param_store()._params
    return all(store.get(name) is parameter for name, parameter in stored)


def same_kind(one: Any, other: Any) -> bool:
    """Tell whether a graph can read one tensor in the place of another."""
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and type(one) is type(other)
        and not other.requires_grad
        and kind_of(one) == kind_of(other)
    )


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return the shape, strides, dtype and device of a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
