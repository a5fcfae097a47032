"""Find state that modules keep in plain tensor attributes, and not in buffers.

A module that assigns `self.mean = ...` in `forward` has state that `state_dict()` does not hold.
Such a tensor is told from a constant by comparison with the attributes at construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Versions", "assign_attributes", "changed_attributes", "modules_by_path", "versions_of"]

Versions = dict[str, tuple[Tensor, int]]
"""Tensors by name, each with the version that counts its in-place changes."""


def modules_by_path(vae: Any) -> dict[str, nn.Module]:
    """Return every module of a VAE by its path, including those that plain functions refer to."""
    found: dict[str, nn.Module] = dict(vae.named_modules())
    for held, top in vae.held.items():
        found |= {f"held/{held}.{path}": module for path, module in top.named_modules()}
    return found


def versions_of(vae: Any) -> Versions:
    """Return the plain tensor attributes of a VAE's modules, with their versions."""
    return {name: (tensor, tensor._version) for name, tensor in _plain_tensors(vae)}


def changed_attributes(vae: Any) -> dict[str, Tensor]:
    """Return the plain tensor attributes that were reassigned or changed since construction.

    A tensor that requires gradients is left out, because it is computed from parameters.
    """
    initial: Versions = getattr(vae, "initial", {})
    return {
        name: tensor
        for name, tensor in _plain_tensors(vae)
        if not tensor.requires_grad and not _is_initial(tensor, initial.get(name))
    }


def assign_attributes(vae: Any, values: Mapping[str, Tensor]) -> set[str]:
    """Assign values of `changed_attributes`; return the names whose module the VAE has."""
    modules = modules_by_path(vae) if values else {}
    owners = {name: name.rpartition(".") for name in values}
    known = {name for name, (path, _, _) in owners.items() if path in modules}
    for name in known:
        path, _, attribute = owners[name]
        present = vars(modules[path]).get(attribute)
        like = present if isinstance(present, Tensor) else next(vae.parameters(), values[name])
        vars(modules[path])[attribute] = values[name].detach().clone().to(like.device)
    return known


def _is_initial(tensor: Tensor, initial: tuple[Tensor, int] | None) -> bool:
    return initial is not None and tensor is initial[0] and tensor._version == initial[1]


def _plain_tensors(vae: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensor attributes by name, without views of parameters and buffers."""
    modules = {id(module): (path, module) for path, module in modules_by_path(vae).items()}
    known = {
        _storage(tensor)
        for _, module in modules.values()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None and _is_dense(tensor)
    }
    for path, module in modules.values():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and _is_dense(value) and _storage(value) not in known:
                yield f"{path}.{name}", value


def _is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, real and has values."""
    empty = nn.parameter.is_lazy(tensor) or tensor.device.type == "meta"
    return not (empty or tensor.is_sparse or tensor.is_quantized or tensor.is_complex())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)
