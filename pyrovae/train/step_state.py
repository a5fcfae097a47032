"""Save and restore what a step changes: gradients, buffers, the state of the generator.

A step that is checked is taken twice from one state, compiled and eagerly. Gradients are left as
Pyro leaves them, without writing zeros at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.train.step_graphs import StepGraph

__all__ = ["GradientNorm", "Gradients", "StepState"]


class StepState:
    """The state of the random generator, and copies of the tensors that a graph writes to."""

    def __init__(self, graph: StepGraph, inputs: Sequence[Tensor]) -> None:
        self._device = graph.run.gpu
        self._draws = self._generator().get_state()
        self._written = graph.written() + [inputs[i] for i in graph.run.changed]
        self._values = [tensor.clone() for tensor in self._written]

    def restore(self) -> None:
        """Restore the state."""
        self._generator().set_state(self._draws)
        with torch.no_grad():
            for tensor, value in zip(self._written, self._values, strict=True):
                tensor.copy_(value)

    def differs(self, other: StepState) -> str:
        """Describe the first difference from another state; "" if present is none."""
        if not torch.equal(self._draws, other._draws):
            return "the random generator ends in another state"
        for found, wanted in zip(self._values, other._values, strict=True):
            if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
                return f"a buffer of shape {tuple(found.shape)} gets other values"
        return ""

    def _generator(self) -> torch.Generator:
        if self._device is None or self._device.type != "cuda":
            return torch.default_generator
        return torch.cuda.default_generators[self._device.index or 0]


class GradientNorm:
    """The norm of the last step's gradient over all parameters, before clipping.

    Attributes:
        measured: whether it is measured where nothing is clipped.
        value: the norm, NaN where it was not measured. A CUDA graph writes to this tensor.
    """

    def __init__(self) -> None:
        self.measured, self.value = False, torch.tensor(math.nan)

    def clip(self, parameters: Sequence[Tensor], largest: float | None) -> None:
        """Clip the gradients together, if there is a largest norm, and keep the norm."""
        if largest is not None:
            norm = nn.utils.clip_grad_norm_(parameters, largest)
        elif self.measured:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            return
        if (self.value.device, self.value.dtype) == (norm.device, norm.dtype):
            self.value.copy_(norm)
        else:
            self.value = norm.detach().clone()


class Gradients:
    """Gradients as Pyro leaves them: accumulated, and zero after a step.

    One tensor of zeros per parameter is kept, and written again only if others have changed it.
    """

    def __init__(self) -> None:
        self._zeros: dict[int, Tensor] = {}
        self._clean: dict[int, int] = {}

    def add(self, parameters: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Add gradients to those of the parameters."""
        taken: set[int] = set()
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is None:
                continue
            grad = _copied_if_shared(grad, parameter, taken)
            present = parameter.grad
            parameter.grad = grad if present is None or self._is_zero(present) else present + grad

    def are_zero(self, parameters: Sequence[Tensor]) -> bool:
        """Tell whether all gradients are None or zero."""
        return all(p.grad is None or self._is_zero(p.grad) for p in parameters)

    def zero(self, parameters: Sequence[Tensor]) -> None:
        """Set the gradients to zero."""
        for parameter in parameters:
            present = parameter.grad
            if present is not None and not self._is_zero(present):
                parameter.grad = self._zero(parameter, present)

    def _is_zero(self, grad: Tensor) -> bool:
        return self._clean.get(id(grad)) == grad._version

    def _zero(self, parameter: Tensor, grad: Tensor) -> Tensor:
        zeros = self._zeros.get(id(parameter))
        if zeros is not None:
            if self._clean[id(zeros)] == zeros._version and _same_layout(zeros, grad):
                return zeros
            del self._clean[id(zeros)]
        zeros = self._zeros[id(parameter)] = torch.zeros_like(grad)
        self._clean[id(zeros)] = zeros._version
        return zeros


def _same_layout(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape,
        other.stride(),
        other.dtype,
        other.device,
    )


def _copied_if_shared(grad: Tensor, parameter: Tensor, taken: set[int]) -> Tensor:
    """Return a gradient in memory of its own and with the strides of its parameter."""
    if grad.stride() != parameter.stride() or grad.data_ptr() in taken:
        grad = torch.empty_like(parameter).copy_(grad)
    taken.add(grad.data_ptr())
    return grad
