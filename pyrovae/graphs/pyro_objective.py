"""Run an objective of Pyro while it is recorded, where tensors have no values."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyro
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.overrides import TorchFunctionMode

__all__ = ["PyroObjective"]

_PYRO_INFER: Final = str(Path(pyro.__file__).parent / "infer")
_PYRO_UTILS: Final = (str(Path(pyro.__file__).parent / "util.py"), f"{_PYRO_INFER}/util.py")
_VALIDATION: Final = torch.distributions.distribution.__file__


class PyroObjective(TorchFunctionMode):
    """Let an objective of Pyro run where tensors have no values yet.

    `backward` becomes `autograd.grad` with the gradients kept; `.item()` in Pyro's objectives
    gives the tensor itself; warnings about NaN are not asked for; and the entries that Pyro
    selects to leave out become zeros. A program's own `.item()` or `if` is left alone, and fails.

    Args:
        parameters: those whose gradients are kept, in `grads`.
        validated: whether `checked` notes the values that distributions check, and their support.
    """

    def __init__(self, parameters: list[Tensor], *, validated: bool = False) -> None:
        super().__init__()
        self.parameters = parameters
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self.checked: list[tuple[Any, Constraint]] = []
        self._validated = validated

    def __enter__(self) -> PyroObjective:
        """Let distributions check, or not."""
        self._before = torch.distributions.Distribution._validate_args
        torch.distributions.Distribution.set_default_validate_args(self._validated)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave validation as it was."""
        torch.distributions.Distribution.set_default_validate_args(self._before)
        super().__exit__(*error)

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self._backward(args[0], kwargs.get("retain_graph"))
        if func is Tensor.item and _caller().startswith(_PYRO_INFER):
            return args[0].detach()
        if func is Tensor.__bool__ and _caller() in _PYRO_UTILS:
            return False
        if func is Tensor.register_hook and _caller() in _PYRO_UTILS:
            return None  # it would look for a NaN as gradients arrive
        if func is Tensor.__bool__ and _caller() == _VALIDATION:
            met = _calling().f_locals
            if "value" in met and isinstance(met.get("support"), Constraint):
                self.checked.append((met["value"], met["support"]))
            return True
        if func is Tensor.masked_select and _caller() in _PYRO_UTILS:
            return torch.where(args[1], args[0], 0)
        return func(*args, **kwargs)

    def _backward(self, loss: Tensor, retain_graph: bool | None) -> None:  # noqa: FBT001
        found = torch.autograd.grad(
            loss, self.parameters, retain_graph=retain_graph, allow_unused=True
        )
        for i, grad in enumerate(found):
            kept = self.grads[i]
            self.grads[i] = grad if kept is None or grad is None else kept + grad
            if grad is None:
                self.grads[i] = kept


def _caller() -> str:
    """Return the file of the Python code that called the intercepted tensor method."""
    return _calling().f_code.co_filename


def _calling() -> FrameType:
    """Return the frame that called the intercepted method, behind other modes of the library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _of_a_mode(frame):
        frame = frame.f_back
    return frame or sys._getframe(1)


def _of_a_mode(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename == __file__ or code.co_name == "__torch_function__"
