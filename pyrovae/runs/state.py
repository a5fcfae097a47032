"""Collect the tensors of a VAE under the names of a model's file, and assign them back.

The names are those of `state_dict()`, with prefixes for what `state_dict()` leaves out:

    param store/NAME     an unconstrained parameter of Pyro's store
    held/NAME            a buffer of a module that a plain function refers to
    attribute/NAME       a tensor in a plain attribute of a module, reassigned as programs run
    fit/seed and steps   the seed and the number of steps of the training
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from pyrovae.randomness import Steps, seeded
from pyrovae.types import Target
from pyrovae.vae import VAE
from pyrovae.weights.attributes import assign_attributes, changed_attributes
from pyrovae.weights.run import run
from pyrovae.weights.stored import ParamSites
from pyrovae.weights.target import (
    buffers_kept,
    buffers_of,
    keep_steps,
    programs,
    steps_of,
)

__all__ = ["collected", "parameters_hash", "restore", "tensors_of"]

STORED: Final = "param store/"
HELD: Final = "held/"
ATTRIBUTE: Final = "attribute/"
STEPS: Final = "fit/seed and steps"


def collected(vae: VAE) -> dict[str, Tensor]:
    """Return every tensor of a VAE by its name in the file. Shared tensors appear once.

    Raises:
        ValueError: if a module has extra state that is not a tensor.
    """
    tensors = vae.state_dict().items()
    extra = [name for name, value in tensors if not isinstance(value, Tensor)]
    if extra:
        raise ValueError(
            f"a run's folder holds tensors only, and the modules have the extra state {extra} "
            "(get_extra_state): keep it in a buffer, self.register_buffer(name, tensor)"
        )
    stored = {f"{STORED}{name}": value for name, value in vae.stored.values().items()}
    state = _distinct_state(vae) | stored | _held_buffers(vae) | _steps(vae)
    return state | {f"{ATTRIBUTE}{name}": value for name, value in changed_attributes(vae).items()}


def parameters_hash(path: Path) -> str | None:
    """Return a hash of the tensors in a model's file; None if it is missing or damaged.

    The steps of the training are left out, after which the best parameters may be the same.
    """
    whole = hashlib.blake2b(digest_size=16)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in sorted(set(file.keys()) - {STEPS}):
                tensor = file.get_tensor(name)
                whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    except (OSError, safetensors.SafetensorError):
        return None
    return whole.hexdigest()


def tensors_of(target: Target, x: Tensor, *context: Any) -> dict[str, Tensor]:
    """Return the unconstrained parameters that two programs announce on x, and their buffers."""
    model, guide = programs(target)
    with seeded(0), buffers_kept(target), ParamSites() as sites:
        run(model, guide, x, *context, particles=1)
    return sites.leaves | buffers_of(target)


def restore(vae: VAE, saved: dict[str, Tensor]) -> None:
    """Assign saved tensors to a VAE, in place where it has parameters and buffers.

    Raises:
        ValueError: if a tensor is missing, left over, or has another shape or kind.
    """
    saved = dict(saved)
    stored = {name for name in saved if name.startswith(STORED)}
    vae.stored.load({name.removeprefix(STORED): saved.pop(name) for name in stored})
    steps = saved.pop(STEPS, None)
    if steps is not None and steps.shape == (2,) and steps.dtype == torch.int64:
        keep_steps(vae, Steps(*steps.tolist()))
    _declare_deferred(vae)
    _restore_attributes(vae, saved)
    held = _held_buffers(vae)
    wanted = _distinct_state(vae) | held
    _check_fits(wanted, saved)
    with torch.no_grad():
        for name, tensor in (*vae.named_parameters(), *vae.named_buffers(), *held.items()):
            if name in saved:
                tensor.data = saved[name].to(tensor.device)


def _check_fits(wanted: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    if changed := _parametrized(saved) - _parametrized(wanted):
        raise ValueError(
            "the saved model has parametrizations, such as a spectral norm, of "
            f"{sorted(changed)}, which a part's record lacks: build these parts, register the "
            "parametrizations, and pass them, as in pyrovae.load(folder, likelihood=...)"
        )
    for problem, names in (
        ("lacks", sorted(wanted.keys() - saved.keys())),
        ("has besides", sorted(saved.keys() - wanted.keys())),
    ):
        if names:
            raise ValueError(
                f"the saved model {problem} the tensors {names}: pass the programs that the run "
                "was saved with"
            )
    for name, tensor in wanted.items():
        if not _fits(tensor, saved[name]):
            raise ValueError(
                f"the saved tensor '{name}' has shape {tuple(saved[name].shape)}; the VAE wants "
                f"{tuple(tensor.shape)}: pass programs of the sizes that the run was saved with"
            )
        if tensor.is_floating_point() != saved[name].is_floating_point():
            raise ValueError(
                f"the saved tensor '{name}' has {saved[name].dtype}; the VAE wants "
                f"{tensor.dtype}: pass the programs that the run was saved with"
            )


def _parametrized(tensors: Iterable[str]) -> set[str]:
    """Return the modules whose tensors `torch.nn.utils.parametrize` computes from others."""
    return {
        name.split(".parametrizations.")[0] for name in tensors if ".parametrizations." in name
    }


def _fits(wanted: Tensor, saved: Tensor) -> bool:
    """Return whether the shapes agree. An axis of size 0, not yet set from data, fits any size."""
    same_axes = wanted.ndim == saved.ndim
    return same_axes and all(w in (0, s) for w, s in zip(wanted.shape, saved.shape, strict=True))


def _steps(vae: VAE) -> dict[str, Tensor]:
    """Return the seed and the step count of the training, if it had a seed."""
    steps = steps_of(vae)
    if not steps.taken or steps.seed is None or not -(2**63) <= steps.seed < 2**63:
        return {}
    return {STEPS: torch.tensor([steps.seed, steps.taken])}


def _distinct_state(vae: VAE) -> dict[str, Tensor]:
    distinct = {name for name, _ in (*vae.named_parameters(), *vae.named_buffers())}
    return {name: value for name, value in vae.state_dict().items() if name in distinct}


def _held_buffers(vae: VAE) -> dict[str, Tensor]:
    """Return the persistent buffers of modules that functions refer to, each once."""
    met, found = {id(buffer) for buffer in vae.buffers()}, {}
    for held, module in vae.held.items():
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept and id(buffer) not in met:
                met.add(id(buffer))
                found[f"{HELD}{held}.{name}"] = buffer
    return found


def _restore_attributes(vae: VAE, saved: dict[str, Tensor]) -> None:
    """Assign the saved plain attributes to their modules, and remove them from `saved`."""
    named = {n.removeprefix(ATTRIBUTE): t for n, t in saved.items() if n.startswith(ATTRIBUTE)}
    for name in assign_attributes(vae, named):
        del saved[f"{ATTRIBUTE}{name}"]


def _declare_deferred(vae: VAE) -> None:
    """Read the parameters that Pyro modules declare by methods, which are made at first use."""
    for module in [module for module in vae.modules() if isinstance(module, PyroModule)]:
        for kind in type(module).__mro__:
            for name in [name for name, v in vars(kind).items() if isinstance(v, PyroParam)]:
                getattr(module, name)
