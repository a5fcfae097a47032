"""Run an objective of Pyro on tensors without values, while it is recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyro
import torch
from pyro.poutine import scale_messenger
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.overrides import TorchFunctionMode

__all__ = ["PyroObjective"]

_PYRO_INFER: Final = str(Path(pyro.__file__).parent / "infer")
_PYRO_UTILS: Final = (str(Path(pyro.__file__).parent / "util.py"), f"{_PYRO_INFER}/util.py")
_VALIDATION: Final = torch.distributions.distribution.__file__
_DISPATCH: Final = (__file__, torch._tensor.__file__, torch.overrides.__file__)
_SCALES: Final = scale_messenger.__file__


class PyroObjective(TorchFunctionMode):
    """Intercept the calls by which Pyro reads values of tensors.

    `backward` becomes `autograd.grad`, and its result is kept in `grads`. `.item()` in Pyro's
    objectives returns the tensor itself. Checks for NaN are skipped, and masked entries become
    zeros instead of being selected. An `.item()` or `if` of the program itself raises an error.

    Args:
        parameters: the tensors whose gradients are kept.
        validated: whether distributions validate; `checked` notes the values and their supports.

    Attributes:
        grads: the gradients in the order of the parameters; None for those without one.
        checked: the values that distributions validated, with their supports.
        positive: the conditions that each scale of `poutine.scale` is positive.
    """

    def __init__(self, parameters: list[Tensor], *, validated: bool = False) -> None:
        super().__init__()
        self.parameters = parameters
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self.checked: list[tuple[Any, Constraint]] = []
        self.positive: list[Tensor] = []
        self._validated = validated

    def __enter__(self) -> PyroObjective:
        """Set the validation of distributions, and validate the scales of `poutine.scale`."""
        self._before = torch.distributions.Distribution._validate_args
        self._poutine_before = pyro.poutine.is_validation_enabled()
        pyro.poutine.enable_validation(is_validate=True)
        torch.distributions.Distribution.set_default_validate_args(self._validated)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Restore the settings of validation."""
        pyro.poutine.enable_validation(self._poutine_before)
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
            return None  # the hook checks gradients for NaN
        if func is Tensor.__bool__ and _caller() == _VALIDATION:
            met = _calling().f_locals
            if "value" in met and isinstance(met.get("support"), Constraint):
                self.checked.append((met["value"], met["support"]))
            return True
        if func is Tensor.__bool__ and _caller() == _SCALES:
            self.positive.append(args[0])
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
    """Return the file of the code that called the intercepted method."""
    return _calling().f_code.co_filename


def _calling() -> FrameType:
    """Return the frame that called the intercepted method, below this and other modes."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _dispatches(frame):
        frame = frame.f_back
    return frame or sys._getframe(1)


def _dispatches(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename in _DISPATCH or code.co_name == "__torch_function__"
