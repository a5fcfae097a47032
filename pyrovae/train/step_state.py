"""What a step of a graph leaves behind: gradients, changed buffers, the generator's place.

A step that is held beside Pyro's is taken twice from one place, so what it changes is put back in
between. Gradients are left as Pyro leaves them, without writing zeros at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae.train.step_graphs import StepGraph


class Before:
    """The generator's place, and what a run of a graph changes, so that it can be run again."""

    def __init__(self, graph: StepGraph, inputs: Sequence[Tensor]) -> None:
        self._device = graph.run.gpu
        self._draws = self._generator().get_state()
        self._written = graph.written() + [inputs[i] for i in graph.run.changed]
        self._values = [tensor.clone() for tensor in self._written]

    def restore(self) -> None:
        """Go back to it."""
        self._generator().set_state(self._draws)
        with torch.no_grad():
            for tensor, value in zip(self._written, self._values, strict=True):
                tensor.copy_(value)

    def differs(self, other: Before) -> str:
        """Name what differs from another place; "" where nothing does."""
        if not torch.equal(self._draws, other._draws):
            return "the random generator is left at another place"
        for found, wanted in zip(self._values, other._values, strict=True):
            if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
                return f"a buffer of shape {tuple(found.shape)} takes another value"
        return ""

    def _generator(self) -> torch.Generator:
        if self._device is None or self._device.type != "cuda":
            return torch.default_generator
        return torch.cuda.default_generators[self._device.index or 0]


class Gradients:
    """Gradients as Pyro leaves them: added to what is there, and zero after a step.

    Zeros are kept in memory of their own, which is written only if somebody else wrote there.
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
            grad = _own(grad, parameter, taken)
            there = parameter.grad
            parameter.grad = grad if there is None or self._is_zero(there) else there + grad

    def are_free(self, parameters: Sequence[Tensor]) -> bool:
        """Tell whether no gradient is there that others left."""
        return all(p.grad is None or self._is_zero(p.grad) for p in parameters)

    def rest(self, parameters: Sequence[Tensor]) -> None:
        """Set the gradients that there are to zero."""
        for parameter in parameters:
            there = parameter.grad
            if there is not None and not self._is_zero(there):
                parameter.grad = self._zero(parameter, there)

    def _is_zero(self, grad: Tensor) -> bool:
        return self._clean.get(id(grad)) == grad._version

    def _zero(self, parameter: Tensor, grad: Tensor) -> Tensor:
        zeros = self._zeros.get(id(parameter))
        if zeros is not None:
            if self._clean[id(zeros)] == zeros._version and _laid_out_alike(zeros, grad):
                return zeros
            del self._clean[id(zeros)]
        zeros = self._zeros[id(parameter)] = torch.zeros_like(grad)
        self._clean[id(zeros)] = zeros._version
        return zeros


def _laid_out_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape,
        other.stride(),
        other.dtype,
        other.device,
    )


def _own(grad: Tensor, parameter: Tensor, taken: set[int]) -> Tensor:
    """Give a gradient memory of its own, laid out as its parameter: optimisers rely on both."""
    if grad.stride() != parameter.stride() or grad.data_ptr() in taken:
        grad = torch.empty_like(parameter).copy_(grad)
    taken.add(grad.data_ptr())
    return grad
