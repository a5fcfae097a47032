"""Replay a whole training step on a GPU as one CUDA graph.

A CUDA graph is a fixed list of kernels on fixed memory, launched at once. Arguments and tensors of
the CPU are copied into static inputs before each replay. The step is captured again when a
parameter, a buffer or the state of the optimizer has moved in memory.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

__all__ = [
    "WARM_UP",
    "CudaStep",
    "gpu_in_use",
    "is_capturable",
    "on_gpu",
    "settings_of",
]

WARM_UP: Final = 2
"""The number of compiled steps before a capture, in which optimizer and libraries set up."""

Gradients = Callable[[Sequence[Tensor]], Tensor]
Update = Callable[[list[Tensor]], None]


class CudaStep:
    """A training step that is captured once and replayed: forward, backward and optimizer.

    The optimizer is part of the graph if it is `capturable` and its settings do not change; a
    learning rate that is a tensor on the GPU may change. Otherwise it steps after each replay.

    Args:
        gradients: takes the inputs and the tensors closed over, leaves the gradients in the
            `grad` of the parameters, and returns the loss.
        closed_over: the tensors closed over.
        parameters: the trained tensors.
        update: takes the optimizer's step and clears the gradients.
        optimizer: returns the torch optimizer, or None before it is made.
    """

    def __init__(
        self,
        gradients: Gradients,
        closed_over: list[Tensor],
        parameters: list[Tensor],
        *,
        update: Update,
        optimizer: Callable[[], torch.optim.Optimizer | None],
    ) -> None:
        self._gradients, self._closed_over, self._parameters = gradients, closed_over, parameters
        self._update, self._optimizer = update, optimizer
        self._device = parameters[0].device
        self._refused, self._steady = False, True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._settings: Any = None

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Take a step and return its loss on the GPU; None if CUDA refused the capture."""
        if self._refused:
            return None
        if self._graph is None or self._moved():
            return self._step_and_capture(inputs)
        with torch.no_grad():
            sources = (*inputs, *self._closed_over)
            for static, source in zip(self._static_inputs, sources, strict=True):
                if static is not source:
                    static.copy_(source, non_blocking=True)
        self._graph.replay()
        if not self._captures_optimizer:
            self._set_grads(self._grads)
            self._update(self._parameters)
        return self._loss.clone()

    def _step_and_capture(self, inputs: Sequence[Tensor]) -> Tensor:
        """Take the step on the static inputs, then capture it."""
        before, self._settings = self._settings, self._settings_now()
        self._steady = self._steady and before in (None, self._settings)
        self._captures_optimizer = self._steady and is_capturable(self._optimizer())
        self._static_inputs = [
            *(tensor.to(self._device, copy=True) for tensor in inputs),
            *(self._in_place(tensor) for tensor in self._closed_over),
        ]
        loss = self._gradients(self._static_inputs)
        self._update(self._parameters)
        self._capture()
        return loss

    def _capture(self) -> None:
        """Capture the step; warn once if CUDA refuses, and capture no more."""
        graph, self._graph = torch.cuda.CUDAGraph(), None
        before = [parameter.grad for parameter in self._parameters]
        beside = _side_stream(self._device)
        try:
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                self._loss = self._gradients(self._static_inputs)
                self._grads = [parameter.grad for parameter in self._parameters]
                if self._captures_optimizer:
                    self._update(self._parameters)
        except RuntimeError as error:
            # The end of a failed capture raises another error, which says less.
            self.refuse(str(error.__context__ or error).strip().splitlines()[0], stacklevel=7)
            return
        finally:
            self._set_grads(before)
        self._graph, self._memory = graph, self._addresses()

    def refuse(self, reason: str, *, stacklevel: int) -> None:
        """Capture no step from now on, and warn of the reason."""
        self._refused = True
        warnings.warn(f"steps run without a CUDA graph: {reason}", stacklevel=stacklevel)

    def _in_place(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.device == self._device else tensor.detach().to(self._device)

    def _set_grads(self, grads: Sequence[Tensor | None]) -> None:
        for parameter, grad in zip(self._parameters, grads, strict=True):
            parameter.grad = grad

    def _moved(self) -> bool:
        changed = self._captures_optimizer and self._settings_now() != self._settings
        return changed or self._addresses() != self._memory

    def _settings_now(self) -> list[Any]:
        return settings_of(self._optimizer(), self._device)

    def _addresses(self) -> list[int]:
        state = _state_of(self._optimizer()) if self._captures_optimizer else ()
        tensors = (*self._closed_over, *self._parameters, *state)
        return [tensor.data_ptr() for tensor in tensors]


def gpu_in_use() -> bool:
    """Tell whether this process has initialized CUDA: this library never does so itself."""
    return torch.cuda.is_initialized()


def on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all tensors are on one NVIDIA GPU."""
    devices = {tensor.device for tensor in tensors}
    return len(devices) == 1 and all(device.type == "cuda" for device in devices)


def is_capturable(optimizer: torch.optim.Optimizer | None) -> bool:
    """Tell whether an optimizer keeps its whole state on the device."""
    return optimizer is not None and all(
        group.get("capturable", False) for group in optimizer.param_groups
    )


def settings_of(optimizer: torch.optim.Optimizer | None, device: torch.device) -> list[Any]:
    """Return the optimizer's settings that are constants of its kernels."""
    if optimizer is None:
        return []
    return [
        (name, _setting(value, device))
        for group in optimizer.param_groups
        for name, value in group.items()
        if name != "params"
    ]


def _setting(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return id(value) if value.device == device else value.tolist()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream of this GPU to capture on: torch's default one may be another GPU's."""
    return torch.cuda.Stream(device)


def _state_of(optimizer: torch.optim.Optimizer | None) -> Iterable[Tensor]:
    if optimizer is None:
        return ()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return (value for value in kept if isinstance(value, Tensor))
