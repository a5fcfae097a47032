"""Replay a whole training step on a GPU as one CUDA graph.

A CUDA graph is a fixed list of kernels on fixed memory, launched at once: no Python, and no launch
for each kernel. What the step reads must therefore stand where it stood at the capture: arguments,
and the numbers that the CPU holds, are copied there before each replay; when a parameter, a buffer
or the optimiser's state has moved, the step is captured anew.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

WARM_UP: Final = 2
"""The runs of a compiled step before its capture, in which optimiser and libraries set up."""

Gradients = Callable[[Sequence[Tensor]], Tensor]
Update = Callable[[list[Tensor]], None]


class CudaStep:
    """A step of training that is captured once and replayed: forward, backward and optimiser.

    The optimiser is part of the graph if torch calls it `capturable`; a learning rate that is a
    tensor may then change at each step. Another optimiser, and one whose settings were seen to
    change, takes its step after each replay.

    Args:
        gradients: takes the inputs and the tensors closed over, in the memory given; leaves the
            gradients in the `grad` of the parameters and returns the loss.
        closed_over: the tensors closed over, read anew at each step.
        parameters: what is trained.
        update: lets the optimiser use the gradients, and takes them away.
        optimizer: returns the torch optimiser once it is made.
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
        """Take a step and return its loss unread; None where an ordinary step is to be taken."""
        if self._refused:
            return None
        if self._graph is None or self._moved():
            return self._first(inputs)
        with torch.no_grad():
            sources = (*inputs, *self._closed_over)
            for standing, source in zip(self._standing, sources, strict=True):
                if standing is not source:
                    standing.copy_(source, non_blocking=True)
        self._graph.replay()
        if not self._whole:
            self._hand_over(self._grads)
            self._update(self._parameters)
        return self._loss.clone()

    def _first(self, inputs: Sequence[Tensor]) -> Tensor:
        """Take the step where its replays will find their inputs, then capture it for them."""
        before, self._settings = self._settings, self._settings_now()
        self._steady = self._steady and before in (None, self._settings)
        self._whole = self._steady and is_capturable(self._optimizer())
        self._standing = [
            *(tensor.to(self._device, copy=True) for tensor in inputs),
            *(self._in_place(tensor) for tensor in self._closed_over),
        ]
        loss = self._gradients(self._standing)
        self._update(self._parameters)
        self._capture()
        return loss

    def _capture(self) -> None:
        """Capture the step; say so, once, where CUDA refuses, and stay with ordinary steps."""
        graph, self._graph = torch.cuda.CUDAGraph(), None
        before = [parameter.grad for parameter in self._parameters]
        beside = _side_stream(self._device)
        try:
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                self._loss = self._gradients(self._standing)
                self._grads = [parameter.grad for parameter in self._parameters]
                if self._whole:
                    self._update(self._parameters)
        except RuntimeError as error:
            # The end of a capture that went wrong raises anew, and says less.
            self.refuse(str(error.__context__ or error).strip().splitlines()[0], stacklevel=7)
            return
        finally:
            self._hand_over(before)
        self._graph, self._memory = graph, self._addresses()

    def refuse(self, reason: str, *, stacklevel: int) -> None:
        """Stay with ordinary steps, and say why."""
        self._refused = True
        warnings.warn(f"steps run without a CUDA graph: {reason}", stacklevel=stacklevel)

    def _in_place(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.device == self._device else tensor.detach().to(self._device)

    def _hand_over(self, grads: Sequence[Tensor | None]) -> None:
        for parameter, grad in zip(self._parameters, grads, strict=True):
            parameter.grad = grad

    def _moved(self) -> bool:
        changed = self._whole and self._settings_now() != self._settings
        return changed or self._addresses() != self._memory

    def _settings_now(self) -> list[Any]:
        return settings_of(self._optimizer(), self._device)

    def _addresses(self) -> list[int]:
        state = _state_of(self._optimizer()) if self._whole else ()
        tensors = (*self._closed_over, *self._parameters, *state)
        return [tensor.data_ptr() for tensor in tensors]


def gpu_in_use() -> bool:
    """Tell whether this process has touched a GPU: if it has not, nothing here will."""
    return torch.cuda.is_initialized()


def on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all of the tensors lie on one NVIDIA GPU."""
    devices = {tensor.device for tensor in tensors}
    return len(devices) == 1 and all(device.type == "cuda" for device in devices)


def is_capturable(optimizer: torch.optim.Optimizer | None) -> bool:
    """Tell whether an optimiser keeps all that it counts on the device."""
    return optimizer is not None and all(
        group.get("capturable", False) for group in optimizer.param_groups
    )


def settings_of(optimizer: torch.optim.Optimizer | None, device: torch.device) -> list[Any]:
    """Return what an optimiser's kernels are told at their launch; a GPU's tensors they read."""
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
    """Return the stream that captures on a GPU: torch's own lies on the GPU that it met first."""
    return torch.cuda.Stream(device)


def _state_of(optimizer: torch.optim.Optimizer | None) -> Iterable[Tensor]:
    if optimizer is None:
        return ()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return (value for value in kept if isinstance(value, Tensor))
