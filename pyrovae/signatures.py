"""What a recorded graph holds for: the shapes of the arguments, and the modules as they stand.

Tensors, and floats, are inputs of a graph; whatever else the arguments hold, and which parameters
the modules have in which mode, is part of the key that it is kept by.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class NotRecordable(Exception):  # noqa: N818
    """A function that has no static graph, or none that compiles; the text says what forced it."""


def signature(arguments: Any) -> Any:
    """Return what a graph is recorded for: shapes of tensors, and whatever is no tensor.

    Raises:
        NotRecordable: for an argument that cannot be told from another, as an array of numpy.
    """
    leaves, structure = pytree.tree_flatten(arguments)
    return str(structure), tuple(_kind(leaf) for leaf in leaves)


def tensors_of(arguments: Any) -> list[Tensor]:
    """Return the inputs of a graph: tensors, and floats as tensors, in double among doubles."""
    inputs = [leaf for leaf in pytree.tree_leaves(arguments) if _is_input(leaf)]
    kinds = {leaf.dtype for leaf in inputs if isinstance(leaf, Tensor)}
    dtype = torch.float64 if torch.float64 in kinds else torch.get_default_dtype()
    return [
        leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=dtype) for leaf in inputs
    ]


def refilled(arguments: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the arguments with their inputs replaced, in the order of `tensors_of`."""
    leaves, structure = pytree.tree_flatten(arguments)
    left = iter(tensors)
    return pytree.tree_unflatten(
        [next(left) if _is_input(leaf) else leaf for leaf in leaves], structure
    )


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | float)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    if not isinstance(leaf, float | Hashable):
        raise NotRecordable(f"an argument is {type(leaf).__name__}: give a tensor")
    return float if isinstance(leaf, float) else (type(leaf), leaf)


def module_state(modules: list[nn.Module]) -> tuple[Any, ...]:
    """What a graph is recorded for beside its arguments: modes and identities of parameters."""
    store = pyro.get_param_store()
    return (
        tuple((module.training, *map(id, module._modules.values())) for module in modules),
        tuple(
            (id(tensor), tensor.requires_grad)
            for module in modules
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        ),
        tuple((name, id(p), p.requires_grad) for name, p in store.named_parameters()),
    )


def modules_of(*programs: Any) -> list[nn.Module]:
    """Return the modules that programs are methods of, or are themselves."""
    owners = [getattr(program, "__self__", program) for program in programs]
    found = [m for owner in owners if isinstance(owner, nn.Module) for m in owner.modules()]
    return merged(found, [])


def merged(first: list[nn.Module], second: list[nn.Module]) -> list[nn.Module]:
    """Return the modules of both lists, each once."""
    return list({id(module): module for module in (*first, *second)}.values())


def ambient() -> bool:
    """Tell whether handlers or autocast are in force, which no recorded graph knows of."""
    return am_i_wrapped() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
