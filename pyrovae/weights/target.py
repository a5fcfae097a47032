"""Resolve a target, a VAE or a pair (model, guide), to its programs, modules and device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.arrays import Intake, tensors
from pyrovae.data.domains import check_context, check_domain, check_finite
from pyrovae.parts import is_known
from pyrovae.randomness import STEPS, Steps
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights import module_state
from pyrovae.weights.given import Given
from pyrovae.weights.stored import held_modules

__all__ = [
    "Resolved",
    "as_tensors",
    "buffers_kept",
    "buffers_of",
    "check_data",
    "device_of",
    "dtype_of",
    "evaluation_mode",
    "intake_of",
    "keep_steps",
    "modules_of",
    "parameters_kept",
    "placed",
    "programs",
    "programs_and_data",
    "safe_to_compile",
    "steps_of",
]

PARTS = ("prior", "likelihood", "guide")


@dataclass(frozen=True)
class Resolved:
    """A target with its two programs.

    Attributes:
        model: the program p(x, z).
        guide: the program q(z | x).
        target: the VAE, the module or the pair (model, guide).

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> len(pv.weights.target.Resolved.of(vae).given(torch.zeros(5, 64)))
        5
    """

    model: Program
    guide: Program
    target: Any

    @classmethod
    def of(cls, target: Target) -> Resolved:
        """Resolve a target.

        Raises:
            ValueError: as `programs`.
        """
        return cls(*programs(target), target)

    @property
    def pair(self) -> tuple[Program, Program]:
        """The model and the guide."""
        return self.model, self.guide

    def given(self, x: Any, *context: ContextValue) -> Given:
        """Check data, and move them to the device of the target's parameters as tensors.

        Raises:
            ValueError: as `as_tensors` and `check_data`.
        """
        x, *context = as_tensors(self.target, x, *context)  # type: ignore[assignment]
        check_data(self.target, x, *context)
        x, *context = placed(self.target, x, *context)  # type: ignore[assignment]
        return Given(x, tuple(context), self.pair)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Set all modules of the target to evaluation mode for a block."""
        return evaluation_mode(self.target)


def programs(target: Target) -> tuple[Program, Program]:
    """Return the model and the guide of a VAE, or of a pair (model, guide).

    Raises:
        ValueError: if the target is neither.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.weights.target.programs(vae) == (vae.model, vae.guide)
        True
    """
    if isinstance(target, tuple) and len(target) == 2 and all(callable(part) for part in target):
        return target
    if callable(getattr(target, "model", None)) and callable(getattr(target, "guide", None)):
        return target.model, target.guide  # type: ignore[union-attr]
    raise ValueError(
        f"expected a VAE or a pair (model, guide) of Pyro programs; got {type(target).__name__}"
    )


def programs_and_data(
    target: Any, x: Any, context: tuple[Any, ...]
) -> tuple[tuple[Program, Program], Tensor, tuple[Any, ...]]:
    """Return the two programs, x and the context.

    A model and a guide may also stand one after the other, in the order of `pyro.infer.SVI`.

    Raises:
        ValueError: as `programs` and `as_tensors`.
    """
    if callable(target) and callable(x) and context:
        target, x, context = (target, x), context[0], context[1:]
    pair = programs(target)
    x, *rest = as_tensors(target, x, *context)
    return pair, x, tuple(rest)


def as_tensors(target: Target, x: Any, *context: Any) -> list[Any]:
    """Return data as tensors of the kind that a target takes (see `data.arrays`).

    Raises:
        ValueError: as `data.tensors`.

    Example:
        >>> import numpy, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.weights.target.as_tensors(vae, numpy.zeros((5, 64)))[0].dtype
        torch.float32
    """
    known = isinstance(x, Tensor) and x.is_floating_point()
    if known and all(value is None or isinstance(value, Tensor) for value in context):
        return [x, *context]
    return tensors(intake_of(target), x, *context)


def intake_of(target: Target) -> Intake:
    """Return what a target takes: the dtype of its parameters, and its likelihood's domain."""
    likelihood = getattr(target, "likelihood", None)
    domain = getattr(likelihood, "domain", None)
    known = isinstance(domain, constraints.Constraint)
    return Intake(dtype_of(target), domain if known else None)


def dtype_of(target: Target) -> torch.dtype | None:
    """Return the dtype of a target's first floating-point parameter; None if it has none."""
    found = (
        value.dtype
        for module in modules_of(target)
        for value in module.parameters(recurse=False)
        if value.is_floating_point()
    )
    return next(found, None)


def steps_of(target: Target) -> Steps:
    """Return the seed and the number of training steps of a VAE, or of the model of a pair."""
    steps: Steps = getattr(_trained(target), STEPS, Steps())
    return steps


def keep_steps(target: Target, steps: Steps) -> None:
    """Store the training steps on the target, if it can have attributes."""
    with contextlib.suppress(AttributeError):
        setattr(_trained(target), STEPS, steps)


def _trained(target: Target) -> Any:
    """Return the object that stores the steps: the VAE, or the model's function or owner."""
    model = target[0] if isinstance(target, tuple) else target
    return getattr(model, "__self__", model)


def check_data(target: Target, x: Tensor, *context: ContextValue) -> None:
    """Check data against the domain of the likelihood.

    If the last context argument is a boolean mask of the shape of x, the error for a value at a
    missing entry says so.

    Raises:
        ValueError: if x is empty, not finite or outside the likelihood's `domain`, or if a
            context argument is not finite.
    """
    check_finite(x)
    check_context(context)
    likelihood = getattr(target, "likelihood", None)
    domain = getattr(likelihood, "domain", None)
    if domain is not None:
        last: Any = context[-1] if context else None
        known = isinstance(last, Tensor) and last.dtype == torch.bool and last.shape == x.shape
        check_domain(x, domain, type(likelihood).__name__, mask=last if known else None)


def device_of(target: Target) -> torch.device | None:
    """Return the device of a module's first parameter or buffer; None if there is none."""
    if not isinstance(target, nn.Module):
        return None
    return next((t.device for t in (*target.parameters(), *target.buffers())), None)


def placed(target: Target, *data: Any) -> list[Any]:
    """Move tensors to the device of the target's parameters."""
    device = device_of(target)
    return [value.to(device) if isinstance(value, Tensor) else value for value in data]


def safe_to_compile(target: Target) -> bool:
    """Return whether a target is compiled by default: a VAE with only parts of the library.

    Other programs may keep state in Python that a graph does not update. They are compiled on
    request only.
    """
    device = device_of(target)
    known = device is not None and device.type in ("cpu", "cuda")
    return known and _has_known_parts(target)


def _has_known_parts(target: Target) -> bool:
    """Return whether a target is a VAE with only parts of the library."""
    config = getattr(target, "config", None)
    return isinstance(config, dict) and set(config) == set(PARTS) and is_known(config)


def modules_of(target: Target) -> list[nn.Module]:
    """Return every module of a target, including those that its functions refer to."""
    tops: list[Any] = [target] if isinstance(target, nn.Module) else []
    held = getattr(target, "held", None)
    if held is not None:
        tops += held.values()
    elif not tops:
        model, guide = programs(target)
        tops = [part for part in (model, guide) if isinstance(part, nn.Module)]
        tops += held_modules(model=model, guide=guide).values()
    return list({id(module): module for top in tops for module in top.modules()}.values())


def buffers_of(target: Target) -> dict[str, Tensor]:
    """Return the buffers of every module of a target, each once, by name."""
    named: list[tuple[str, Tensor]] = []
    if isinstance(target, nn.Module):
        named += target.named_buffers()
    met = {id(buffer) for _, buffer in named}
    for number, module in enumerate(modules_of(target)):
        for name, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in met:
                met.add(id(buffer))
                named.append((f"{number}.{name}", buffer))
    return dict(named)


@contextlib.contextmanager
def parameters_kept(target: Target) -> Iterator[None]:
    """Restore the parameters of the target's modules after the block.

    A codebook that is trained by a loss revives rows of its parameter in a forward pass.
    """
    before = [
        (parameter, parameter.detach().clone())
        for module in modules_of(target)
        for parameter in module.parameters(recurse=False)
        if not nn.parameter.is_lazy(parameter)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                if not torch.equal(parameter, value):
                    parameter.copy_(value)


def buffers_kept(target: Target) -> contextlib.AbstractContextManager[None]:
    """Restore the buffers of the target's modules, and of modules that it calls, after a block."""
    return module_state.buffers_kept(modules_of(target))


def evaluation_mode(target: Target) -> contextlib.AbstractContextManager[None]:
    """Set every module of the target to evaluation mode, and restore the modes after the block.

    Modules of programs of one's own that no search finds are switched when they run.
    """
    return module_state.evaluation_mode(modules_of(target), met=not _has_known_parts(target))
