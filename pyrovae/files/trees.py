"""Split nested state into tensors and JSON, and join it again.

The state of an optimizer or a callback is a tree of dictionaries, lists and tuples with tensors,
numbers and strings as leaves. Tensors go to a safetensors file under names of their own; the rest
is JSON, in which every container says its kind, so that tuples and keys that are numbers return
as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["joined", "split"]


def split(tree: Any, at: str = "state") -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of a tree by name, and the rest as a JSON value.

    Tensors are copied to the CPU, also those that share memory.

    Args:
        tree: dictionaries, lists, tuples, tensors, numbers, strings, booleans and None.
        at: the name of the tree, with which the names of tensors begin.

    Raises:
        ValueError: naming a leaf of any other type.

    Example:
        >>> import torch
        >>> tensors, rest = split({0: (torch.ones(2), 0.5)})
        >>> joined(tensors, rest)
        {0: (tensor([1., 1.]), 0.5)}
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encoded(tree, at, tensors)


def joined(tensors: dict[str, Tensor], rest: Any) -> Any:
    """Join what `split` returned.

    Raises:
        ValueError: if a tensor is missing or the JSON value is not one of `split`.
    """
    if not isinstance(rest, dict):
        if isinstance(rest, list):
            raise ValueError("the state is damaged: it has a list of no kind")
        return rest
    if len(rest) != 1:
        raise ValueError(f"the state is damaged: it has a container of the kinds {sorted(rest)}")
    (kind, held), *_ = rest.items()
    if kind == "tensor" and held in tensors:
        return tensors[held]
    if kind == "dict" and isinstance(held, list):
        return {_key(joined(tensors, key)): joined(tensors, value) for key, value in held}
    if kind in ("list", "tuple") and isinstance(held, list):
        values = [joined(tensors, value) for value in held]
        return values if kind == "list" else tuple(values)
    raise ValueError(f"the state is damaged: it has no {kind} {str(held)[:60]!r}")


def _key(key: Any) -> Any:
    if isinstance(key, str | int | float | bool | tuple | None):
        return key
    raise ValueError(f"the state is damaged: {str(key)[:60]!r} is no key of a dictionary")


def _encoded(tree: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        while at in tensors:  # {1: ..., "1": ...} and {"a": {"b": ...}, "a/b": ...} name two alike
            at = f"{at}'"
        tensors[at] = tree.detach().cpu().clone()
        return {"tensor": at}
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, str | int | float | bool | None):
        return tree
    if isinstance(tree, dict):
        pairs = enumerate(tree.items())
        return {
            "dict": [
                [_encoded(key, f"{at}/{i}", tensors), _encoded(value, f"{at}/{key}", tensors)]
                for i, (key, value) in pairs
            ]
        }
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_encoded(value, f"{at}/{i}", tensors) for i, value in enumerate(tree)]}
    raise ValueError(
        f"{at} is a {type(tree).__name__}, and a checkpoint holds tensors, numbers, strings, "
        "lists, tuples and dictionaries: return these from state_dict()"
    )
