"""Take the steps of a Pyro optimizer for all parameters at once.

Pyro makes one torch optimizer per parameter. `JoinedOptimizer` steps them together by the fastest
kernel of their class. It reads their settings before each step and updates their own states, so
that `optim_objs`, `get_state`, `set_state` and schedulers work as in Pyro.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from pyrovae.graphs.cuda import on_gpu

__all__ = [
    "JoinedOptimizer",
    "OneOptimizer",
    "check_names",
    "fastest_form",
    "learning_rate_of",
    "pyro_optimizer",
]

_SEPARABLE: Final = frozenset(
    {
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adamax,
        torch.optim.ASGD,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    }
)
"""Optimizers with elementwise steps that change no setting of their groups."""

_FUSED: Final = frozenset(
    {torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}
)


class OneOptimizer(PyroOptim):
    """Wrap one torch optimizer over all parameters for Pyro's SVI.

    Args:
        make: a function that takes the list of parameters and returns a torch optimizer, or a
            torch optimizer, which trains only the parameters that it already holds.

    Raises:
        ValueError: at the first step, if a given torch optimizer holds none of the parameters.

    Example:
        >>> import functools, torch
        >>> from pyrovae import OneOptimizer
        >>> optim = OneOptimizer(functools.partial(torch.optim.AdamW, lr=1e-3))
    """

    def __init__(
        self, make: Callable[[list[Tensor]], torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        given = make if isinstance(make, torch.optim.Optimizer) else None
        super().__init__(make if given is None else type(given), {})
        self.optimizer = given
        self._adds, self._checked = given is None, given is None
        self._waiting: dict[str, Any] | None = None

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Take a step for the parameters that have a gradient, and add new parameters."""
        parameters = list(params)
        if self.optimizer is None:
            if not parameters:
                return
            self.optimizer = self.pt_optim_constructor(parameters)
            if self._waiting is not None:
                self.optimizer.load_state_dict(self._waiting)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        new = [parameter for parameter in parameters if id(parameter) not in known]
        if new and self._adds:
            self.optimizer.add_param_group({"params": new})
        elif not self._checked and parameters and len(new) == len(parameters):
            raise ValueError(
                f"the optimizer, {type(self.optimizer).__name__}, holds none of the "
                f"{len(new)} parameters of the programs: construct it with these, or use an "
                "optimizer of pyro.optim"
            )
        self._checked = True
        self.optimizer.step()

    def take(self, parameters: list[Tensor], names: Mapping[Tensor, str]) -> None:
        """Take a step for parameters whose names are known."""
        self(parameters)

    def state_of(self, names: Mapping[Tensor, str]) -> dict[str, Any]:
        """Return the state of the torch optimizer for those of its parameters that have names.

        An optimizer that was given is loaded with all that it holds.
        """
        if self.optimizer is None or not self._adds:
            return self.get_state()
        state, start, kept, groups = self.optimizer.state_dict(), 0, list[int](), list[Any]()
        for group, present in zip(state["param_groups"], self.optimizer.param_groups, strict=True):
            own = [
                i for i, p in zip(group["params"], present["params"], strict=True) if p in names
            ]
            if own:
                kept += own
                groups.append({**group, "params": list(range(start, start + len(own)))})
                start += len(own)
        states = {new: state["state"][i] for new, i in enumerate(kept) if i in state["state"]}
        return {**state, "state": states, "param_groups": groups} if groups else {}

    def restart(self, state: dict[str, Any]) -> None:
        """Forget the parameters that were added, and load a state."""
        if self._adds:
            self.optimizer = None
        self.set_state(state)

    def count(self) -> None:
        """Count a step; the base class has no use for the number."""

    def get_state(self) -> dict[str, Any]:
        """Return the state of the torch optimizer, for `set_state`."""
        return self._waiting or {} if self.optimizer is None else self.optimizer.state_dict()

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Load a state, now or when the torch optimizer is made."""
        self._waiting = state_dict or None
        if self.optimizer is not None and state_dict:
            self.optimizer.load_state_dict(state_dict)


class JoinedOptimizer:
    """Step all parameters of a Pyro optimizer at once, where the result is the same.

    Args:
        optim: a Pyro optimizer, which keeps its states and settings.

    Attributes:
        joined: the torch optimizer over all parameters; None where each has to step by itself.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim
        self.joined: torch.optim.Optimizer | None = None
        self._parameters: list[Tensor] = []
        self._clips: list[tuple[Tensor, Callable[[Tensor], None]]] = []
        self._singles: list[tuple[Any, torch.optim.Optimizer, Any, dict[str, Any]]] = []
        self._rates: dict[int, tuple[float, Tensor]] = {}
        self._separable = type(optim).__call__ in (PyroOptim.__call__, PyroLRScheduler.__call__)
        if not isinstance(optim, OneOptimizer):
            optim.get_state = functools.partial(_state_by_name, optim, _names_kept(optim))

    def __call__(self, parameters: list[Tensor], names: Mapping[Tensor, str]) -> None:
        """Take a step with the present gradients."""
        if isinstance(self.optim, OneOptimizer):
            self.optim.take(parameters, names)
            return
        if self._separable and self.joined is not None and self._up_to_date(parameters):
            self._step()
            return
        if any(parameter not in self.optim.optim_objs for parameter in parameters):
            if not self._separable:
                with _known_by_name(names) as local:
                    _names_kept(self.optim).update(local)
                    self.optim(parameters)
                return
            self.make(parameters, names)
        if not self._separable or not self.join(parameters):
            self.optim(parameters)
            return
        self._step()

    def make(self, parameters: list[Tensor], names: Mapping[Tensor, str]) -> None:
        """Make the optimizers of new parameters, with the states that wait for their names."""
        if isinstance(self.optim, OneOptimizer):
            return
        with _known_by_name(names) as local:
            _names_kept(self.optim).update(local)
            for parameter in parameters:
                if parameter not in self.optim.optim_objs:
                    _make_single(self.optim, parameter)

    def state(self, names: Mapping[Tensor, str]) -> dict[str, Any]:
        """Return the state of the parameters that have names, whatever else was trained."""
        if isinstance(self.optim, OneOptimizer):
            return self.optim.state_of(names)
        made, self.optim.optim_objs = self.optim.optim_objs, {}
        self.optim.optim_objs.update({p: made[p] for p in names if p in made})
        try:
            state = _state_by_name(self.optim, dict(names))
        finally:
            self.optim.optim_objs = made
        return {**self.optim._state_waiting_to_be_consumed, **state}

    def restart(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        """Load a state for parameters by name, in the place of what was trained before."""
        if isinstance(self.optim, OneOptimizer):
            self.optim.restart(state)
            return
        for parameter in parameters.values():
            self.optim.optim_objs.pop(parameter, None)
        self.optim._state_waiting_to_be_consumed.clear()
        self.optim.set_state(state)

    def _step(self) -> None:
        for parameter, clip in self._clips:
            clip(parameter)
        if self.joined is not None:
            self.joined.step()

    def join(self, parameters: list[Tensor]) -> bool:
        """Join the optimizers of the parameters; False if each has to step by itself."""
        if self._up_to_date(parameters):
            return self.joined is not None or not parameters
        self._parameters, self.joined = list(parameters), None
        objects = [self.optim.optim_objs[parameter] for parameter in parameters]
        steppers = [getattr(made, "optimizer", made) for made in objects]
        self._singles = [
            (made, single, single.state, dict(single.param_groups[0]))
            for made, single in zip(objects, steppers, strict=True)
        ]
        clips = [(parameter, self.optim.grad_clip[parameter]) for parameter in parameters]
        self._clips = [(parameter, clip) for parameter, clip in clips if clip is not None]
        if parameters and _separable(steppers, parameters):
            self.joined = self._join(steppers)
        return self.joined is not None or not parameters

    def joined_for(self, parameters: list[Tensor]) -> torch.optim.Optimizer | None:
        """Return one torch optimizer that steps these parameters, if it need not clip."""
        if isinstance(self.optim, OneOptimizer):
            return self.optim.optimizer
        if any(parameter not in self.optim.optim_objs for parameter in parameters):
            return None
        if any(self.optim.grad_clip[parameter] is not None for parameter in parameters):
            return None
        return self.joined if self.join(parameters) else None

    def _up_to_date(self, parameters: list[Tensor]) -> bool:
        if len(parameters) != len(self._parameters):
            return False
        made = self.optim.optim_objs
        return not _hooked_everywhere() and all(
            parameter is known
            and made.get(parameter) is obj
            and single.state is state
            and single.param_groups[0] == group
            and not (single._optimizer_step_pre_hooks or single._optimizer_step_post_hooks)
            for parameter, known, (obj, single, state, group) in zip(
                parameters, self._parameters, self._singles, strict=True
            )
        )

    def _join(self, singles: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """Make one optimizer over the states of the single ones."""
        kind: Any = type(singles[0])
        joined: torch.optim.Optimizer = kind(self._parameters)
        form = _fastest(singles, self._parameters)
        groups: list[dict[str, Any]] = []
        for parameter, single in zip(self._parameters, singles, strict=True):
            single._opt_called = True  # type: ignore[attr-defined]  # schedulers read it
            joined.state[parameter] = _placed(single.state[parameter], parameter, form)
            settings = {k: v for k, v in single.param_groups[0].items() if k != "params"}
            settings.update({k: v for k, v in form.items() if settings.get(k, v) in (None, False)})
            group = next((g for g in groups if _same_settings(g, settings)), None)
            if group is None:
                groups.append(group := {**settings, "params": []})
            group["params"].append(parameter)
        for i, group in enumerate(groups):
            group["lr"] = self._rate(i, group)
        joined.param_groups = groups
        return joined

    def _rate(self, i: int, group: dict[str, Any]) -> Any:
        """Keep a learning rate that a CUDA graph reads in one tensor on the GPU."""
        rate, device = group["lr"], group["params"][0].device
        if not group.get("capturable") or isinstance(rate, Tensor):
            return rate
        then, standing = self._rates.get(i, (None, None))
        if standing is None or standing.device != device:
            standing = torch.tensor(float(rate), device=device)
        elif then != rate:
            standing.fill_(rate)
        self._rates[i] = (rate, standing)
        return standing


def pyro_optimizer(optim: Any) -> PyroOptim:
    """Wrap a torch optimizer for Pyro's SVI; return a Pyro optimizer as it is."""
    return OneOptimizer(optim) if isinstance(optim, torch.optim.Optimizer) else optim


def _separable(singles: Sequence[Any], parameters: Sequence[Tensor]) -> bool:
    """Tell whether one step over all parameters equals the single steps."""
    kind, first = type(singles[0]), parameters[0]
    return (
        kind in _SEPARABLE
        and all(
            type(single) is kind
            and len(single.param_groups) == 1
            and not single.param_groups[0].get("differentiable")
            and not (single._optimizer_step_pre_hooks or single._optimizer_step_post_hooks)
            for single in singles
        )
        and not _hooked_everywhere()
        and all(p.device == first.device and p.dtype == first.dtype for p in parameters)
        and all(p.grad is None or p.grad.layout == torch.strided for p in parameters)
    )


def _hooked_everywhere() -> bool:
    return bool(
        torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
    )


def _fastest(
    singles: Sequence[torch.optim.Optimizer], parameters: Sequence[Tensor]
) -> dict[str, Any]:
    """Return the settings of the fastest kernel of a class."""
    starts = any(single.param_groups[0].get("momentum") for single in singles)
    return fastest_form(type(singles[0]), singles[0].defaults, parameters, momentum=starts)


def fastest_form(
    kind: type, defaults: Mapping[str, Any], parameters: Sequence[Tensor], *, momentum: bool
) -> dict[str, Any]:
    """Return the settings of the fastest kernel of an optimizer's class for these parameters."""
    form = {}
    # Fused kernels refuse parameters of which only some have a momentum.
    if kind in _FUSED and all(p.is_floating_point() for p in parameters) and not momentum:
        form["fused"] = True
    if on_gpu(parameters) and "capturable" in defaults:
        form["capturable"] = True
    return form


def learning_rate_of(optim: PyroOptim) -> float:
    """Return the learning rate of the first parameters; NaN before the first step."""
    if hasattr(optim, "learning_rate"):
        return float(optim.learning_rate)
    made = [*optim.optim_objs.values(), getattr(optim, "optimizer", None)]
    steppers = [getattr(each, "optimizer", each) for each in made if each is not None]
    return float(steppers[0].param_groups[0].get("lr", math.nan)) if steppers else math.nan


def _same_settings(group: dict[str, Any], settings: dict[str, Any]) -> bool:
    return all(group[name] is value or group[name] == value for name, value in settings.items())


def _placed(state: dict[str, Any], parameter: Tensor, form: dict[str, Any]) -> dict[str, Any]:
    """Convert the number of steps in a state to the form that fast kernels read."""
    count = state.get("step")
    if isinstance(count, Tensor) and form:
        device = parameter.device if on_gpu([parameter]) else count.device
        state["step"] = count.to(device, torch.float32)
    return state


def _make_single(optim: PyroOptim, parameter: Tensor) -> None:
    """Make the optimizer of a new parameter, as Pyro does."""
    made = optim.optim_objs[parameter] = optim._get_optim(parameter)
    optim.grad_clip[parameter] = optim._get_grad_clip(parameter)
    name = pyro.get_param_store().param_name(parameter)
    state = optim._state_waiting_to_be_consumed.pop(name, None)
    if state is not None:
        pyro.optim.optim._load_state_dict(made, state)
        getattr(
            made, "optimizer", made
        )._opt_called = True  # the steps of its state; schedulers read it


@contextlib.contextmanager
def _known_by_name(names: Mapping[Tensor, str]) -> Iterator[dict[Tensor, str]]:
    """Add names of parameters to Pyro's store for the block; yield those that it lacked."""
    known = pyro.get_param_store()._param_to_name
    local = {parameter: name for parameter, name in names.items() if parameter not in known}
    known.update(local)
    try:
        yield local
    finally:
        for parameter in local:
            known.pop(parameter, None)


def _names_kept(optim: PyroOptim) -> dict[Tensor, str]:
    """Return the names of the param sites of an optimizer's parameters, kept on it."""
    kept: dict[Tensor, str] = optim.__dict__.setdefault("announced_names", {})
    return kept


def _state_by_name(optim: PyroOptim, names: dict[Tensor, str]) -> dict[str, Any]:
    """Return the states of an optimizer by the names of the param sites.

    A parameter is left out, as in Pyro, if its name belongs to another one by now.
    """
    stored = pyro.get_param_store()._params
    names = {p: name for p, name in names.items() if stored.get(name, p) is p}
    check_names(names.values())
    with _known_by_name(names):
        state: dict[str, Any] = type(optim).get_state(optim)
    return state


def check_names(names: Collection[str]) -> None:
    """Check that the parameters of a state have names of their own.

    Raises:
        ValueError: if two have the same.
    """
    if len(set(names)) < len(names):
        raise ValueError(
            "two parameters of the optimizer have the same name, and its state is saved by name: "
            "give each program an optimizer of its own"
        )
