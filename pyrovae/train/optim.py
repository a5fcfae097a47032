"""Make a torch optimizer for programs: parameter groups by name, a schedule of the learning rate.

The learning rate is set before each step from the number of steps so far, outside of the compiled
step. On an NVIDIA GPU it is a tensor, which a CUDA graph reads anew at each replay.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import pyro
import torch
from torch import Tensor

from pyrovae.train.learning_rates import LearningRate, Plateau, cosine
from pyrovae.train.muon import Muon
from pyrovae.train.optimizers import OneOptimizer, check_names, fastest_form

__all__ = ["Optim"]

Chosen = str | Callable[[str, Tensor], bool]

REST_LR: Final = 2e-3

FORMS: Final = ("fused", "foreach", "differentiable", "capturable")
"""The settings that choose a kernel; where none is given, it is the fastest."""


class Optim(OneOptimizer):
    """Optimize all parameters by a class of `torch.optim`.

    `fit` sets the learning rate before each step. Elsewhere the steps are counted by
    `pyrovae.SVI.step`, or by the optimizer itself under Pyro's SVI.

    Args:
        kind: a class of `torch.optim`, or one with the same arguments.
        lr: the learning rate: a number, a function of the number of steps so far such as those
            of `pyrovae.learning_rates`, or a `Plateau`.
        per: whether the function is of the number of steps, or of whole epochs, so far.
        groups: settings of some parameters, by a pattern of their names such as "*.bias", or by a
            function of name and parameter. The first that matches counts. Beside the arguments
            of the class, a group can have the entry `optimizer`, a class for its parameters, and
            an `lr` of its own, a number or a schedule.
        **settings: further arguments of the class, for all parameters that it steps.

    Raises:
        ValueError: for a class that cannot take steps by itself, and for arguments that it does
            not take. From the first step, for a pattern that matches no parameter.

    Example:
        >>> import torch, pyrovae as pv
        >>> rate = pv.learning_rates.cosine(1e-3, 20_000, warmup=500)
        >>> biases = {"*.bias": {"weight_decay": 0.0}}
        >>> optim = pv.Optim(torch.optim.AdamW, lr=rate, weight_decay=0.01, groups=biases)
        >>> step = pv.Step(optim=optim, clip_norm=10.0)
    """

    def __init__(
        self,
        kind: type[torch.optim.Optimizer],
        *,
        lr: LearningRate = 1e-3,
        per: Literal["step", "epoch"] = "step",
        groups: Mapping[Chosen, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(kind)
        if per not in ("step", "epoch"):
            raise ValueError(f'per is "step" or "epoch"; got {per!r}')
        self.per, self.groups = per, dict(groups or {})
        rules = [dict(rule) for rule in self.groups.values()]
        self._kinds = [rule.pop("optimizer", kind) for rule in rules] + [kind]
        self._lrs: list[LearningRate] = [rule.pop("lr", lr) for rule in rules] + [lr]
        # Settings for all are those of the class, which another class need not take.
        shared = [settings if own is kind else {} for own in self._kinds]
        self._settings = [{**s, **rule} for s, rule in zip(shared, [*rules, {}], strict=True)]
        self.steps, self.bounds = 0, list[float]()
        self._defaults = [
            _defaults(own, self._rate(rate), given)
            for own, rate, given in zip(self._kinds, self._lrs, self._settings, strict=True)
        ]
        self.optimizers: list[torch.optim.Optimizer] = []
        self._members: list[list[int]] = []
        self._known: dict[Tensor, str] = {}
        self._loaded = False
        self._set: dict[tuple[int, int], float] = {}

    @classmethod
    def muon(
        cls,
        steps: int,
        *,
        lr: float = 0.03,
        groups: Mapping[Chosen, Mapping[str, Any]] | None = None,
    ) -> Optim:
        """Optimize weight matrices by Muon and all other parameters by Adam, along cosines.

        A weight matrix is a parameter of two dimensions that is named "weight", as those of
        torch's layers are. Other matrices, such as the pseudo-inputs of a VampPrior and the means
        of a mixture, are stepped by Adam, coordinate by coordinate. The rates rise over the first
        hundredth of the steps and fall to zero at the last. Weights do not decay: the decay of 0.1
        that torch's Muon has by default costs nats. Muon's own work does not grow with the batch,
        so that batches of some hundred data suit it best. It is done in float32 where the
        processor would emulate bfloat16 (`pyrovae.train.muon.Muon`).
        `benchmarks/tables/recipes.md` compares this with Adam on MNIST.

        Args:
            steps: the number of steps of the whole training.
            lr: the highest rate of Muon. That of Adam is 0.002.
            groups: settings of some parameters, as of `Optim`, before all else. Give an optimizer
                of its own to the weight of a layer that multiplies nothing, such as an embedding.

        Raises:
            ValueError: if `steps` is below 1, or the rate is not positive and finite.

        References:
            Jordan et al., 2024. Muon: An Optimizer for Hidden Layers in Neural Networks.

        Example:
            >>> import torch, pyrovae as pv
            >>> step = pv.Step(optim=pv.Optim.muon(steps=20 * 8))
            >>> vae, x = pv.mlp_vae(16, latents=2, hidden=8), torch.rand(800, 16).round()
            >>> history = pv.fit(vae, x, epochs=20, batch_size=100, step=step)
        """
        if steps < 1:
            raise ValueError(f"steps is the number of steps of the whole training; got {steps}")
        rate = cosine(lr, steps, warmup=steps // 100)
        groups = {**(groups or {}), **by_adam(steps)}
        return cls(Muon, lr=rate, groups=groups, weight_decay=0.0)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step, for parameters that are in no group."""
        return self._rate(self._lrs[-1])

    def at(self, steps: int, bounds: Sequence[float] | None = None) -> None:
        """Set the learning rates of the next step.

        Args:
            steps: the number of steps so far.
            bounds: the bound of each epoch so far, as of `Plateau`; None keeps those before.
        """
        self.steps = steps
        self.bounds = self.bounds if bounds is None else list(bounds)
        for i, (optimizer, members) in enumerate(zip(self.optimizers, self._members, strict=True)):
            for j, (group, member) in enumerate(zip(optimizer.param_groups, members, strict=True)):
                rate = self._rate(self._lrs[member])
                if self._set.get((i, j)) != rate:
                    self._set[i, j] = rate
                    _set_rate(group, rate)

    def count(self) -> None:
        """Count a step, and set the learning rates of the next."""
        self.at(self.steps + 1)

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Take a step for Pyro's SVI, and count it."""
        names, parameters = pyro.get_param_store()._param_to_name, list(params)
        self.take(parameters, names)
        self.count()

    def take(self, parameters: list[Tensor], names: Mapping[Tensor, str]) -> None:
        """Take a step for these parameters.

        As in Pyro, parameters that the programs have not announced in this step stay as they are.
        """
        new = {p: names.get(p, "") for p in parameters if p not in self._known}
        if new:
            self._add(new)
        absent = self._known.keys() - set(parameters) if len(self._known) > len(parameters) else ()
        waiting = {parameter: parameter.grad for parameter in absent}
        for parameter in waiting:
            parameter.grad = None
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter, grad in waiting.items():
            parameter.grad = grad

    def get_state(self) -> dict[str, Any]:
        """Return the states and settings of the parameters by name.

        Raises:
            ValueError: if two parameters have the same name.
        """
        return self.state_of(self._known)

    def state_of(self, names: Mapping[Tensor, str]) -> dict[str, Any]:
        """Return the states and settings of these parameters by name, and those that wait."""
        known = {parameter: name for parameter, name in self._known.items() if parameter in names}
        check_names(known.values())
        saved = dict((self._waiting or {}).get("parameters", {}))
        for optimizer, member, group in self._each_group():
            settings = {key: value for key, value in group.items() if key != "params"}
            for parameter in (each for each in group["params"] if each in known):
                state = dict(optimizer.state.get(parameter, {}))
                entry = {"member": member, "state": state, "settings": settings}
                saved[known[parameter]] = entry
        if not saved:
            return {}
        return {"parameters": saved, "steps": self.steps, "bounds": list(self.bounds)}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Load a state of `get_state`, now or as the parameters are announced.

        Raises:
            ValueError: now or at the first step, if it is the state of other parameters or groups.
        """
        self._waiting, self._loaded = None, False
        if state_dict:
            self._waiting = {**state_dict, "parameters": dict(state_dict["parameters"])}
            self.at(state_dict["steps"], state_dict["bounds"])
        if self.optimizers:
            self._load(self._known)

    def restart(self, state: dict[str, Any]) -> None:
        """Forget all parameters, and load a state as others are announced."""
        self.optimizers, self._members, self._known = [], [], {}
        self._set.clear()
        super().restart(state)

    def _load(self, new: Mapping[Tensor, str]) -> None:
        """Load the states that wait for new parameters.

        Either the first parameters or the states may be more, as some are announced later.
        """
        if self._waiting is None:
            return
        waiting = self._waiting["parameters"]
        found = {p: waiting[name] for p, name in new.items() if name in waiting}
        fits = self._loaded or len(found) in (len(new), len(waiting))
        if not fits or any(e["member"] != self._member(new[p], p) for p, e in found.items()):
            raise ValueError(
                "the state of the optimizer is that of other parameters or groups: construct the "
                "optimizer as the saved one was"
            )
        for optimizer in self.optimizers:
            _load_into(optimizer, found)
        for name in new.values():
            waiting.pop(name, None)
        self._loaded = True
        self._set.clear()
        self.at(self.steps)

    def _each_group(self) -> Iterator[tuple[torch.optim.Optimizer, int, dict[str, Any]]]:
        """Yield the optimizer, the member and the settings of each group of parameters."""
        for optimizer, members in zip(self.optimizers, self._members, strict=True):
            for member, group in zip(members, optimizer.param_groups, strict=True):
                yield optimizer, member, group

    def _rate(self, lr: LearningRate) -> float:
        if isinstance(lr, Plateau):
            return lr.after(self.bounds)
        if callable(lr):
            return lr(self.steps if self.per == "step" else len(self.bounds))
        return lr

    def _add(self, new: dict[Tensor, str]) -> None:
        """Add parameters to the optimizers of their groups, and make those that are missing."""
        if not self._known:
            self._check_patterns(new)
        chosen = {parameter: self._member(name, parameter) for parameter, name in new.items()}
        for member in dict.fromkeys(chosen.values()):
            parameters = [p for p, own in chosen.items() if own == member]
            kind, group = self._kinds[member], self._group(member, parameters)
            at = next((i for i, each in enumerate(self.optimizers) if type(each) is kind), None)
            if at is None:
                self.optimizers.append(_made(kind, group))
                self._members.append([member])
            else:
                self.optimizers[at].add_param_group(group)
                self._members[at].append(member)
        self._known.update(new)
        self.optimizer = self.optimizers[0] if len(self.optimizers) == 1 else None
        self._load(new)

    def _group(self, member: int, parameters: list[Tensor]) -> dict[str, Any]:
        """Return the settings of new parameters, for the fastest kernel that is left open."""
        given, kind = self._settings[member], self._kinds[member]
        if not any(given.get(form) is not None for form in FORMS):
            moving = bool(given.get("momentum"))
            defaults = self._defaults[member]
            given = {**given, **fastest_form(kind, defaults, parameters, momentum=moving)}
        group = {**given, "params": parameters, "lr": self._rate(self._lrs[member])}
        if group.get("capturable"):
            group["lr"] = torch.tensor(group["lr"], device=parameters[0].device)
        return group

    def _member(self, name: str, parameter: Tensor) -> int:
        """Return the index of the first group that a parameter is in."""
        found = (i for i, which in enumerate(self.groups) if _matches(which, name, parameter))
        return next(found, len(self.groups))

    def _check_patterns(self, new: Mapping[Tensor, str]) -> None:
        for which in self.groups:
            if not any(_matches(which, name, parameter) for parameter, name in new.items()):
                shown = ", ".join(list(new.values())[:4])
                raise ValueError(
                    f"the group {which!r} of the optimizer has no parameter: the first names are "
                    f"{shown}; patterns are such as '*.bias'"
                )


def _load_into(optimizer: torch.optim.Optimizer, saved: Mapping[Tensor, Any]) -> None:
    """Load states and settings of some of an optimizer's parameters; the others keep theirs."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = optimizer.state_dict()
    for number, parameter in enumerate(parameters):
        if parameter in saved and saved[parameter]["state"]:
            state["state"][number] = saved[parameter]["state"]
    for group in state["param_groups"]:
        settings = (
            saved[parameters[i]]["settings"] for i in group["params"] if parameters[i] in saved
        )
        group.update(next(settings, {}))
    optimizer.load_state_dict(state)


def _matches(which: Chosen, name: str, parameter: Tensor) -> bool:
    if isinstance(which, str):
        return fnmatch.fnmatchcase(name, which)
    return bool(which(name, parameter))


def _defaults(kind: Any, rate: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a class with these settings.

    Raises:
        ValueError: if the class cannot take steps by itself, or does not take the settings.
    """
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(
            f"an optimizer is a class such as torch.optim.AdamW; got {kind!r}: a constructed one "
            "is given as Step(optim=...) by itself"
        )
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{kind.__name__} evaluates the loss several times in a step, which SVI does not: "
            "take another optimizer"
        )
    taken = list(inspect.signature(kind).parameters)[1:]
    unknown = [name for name in settings if name not in taken]
    if unknown:
        raise ValueError(
            f"{kind.__name__} takes no {unknown[0]!r}: its arguments are {', '.join(taken)}"
        )
    made: Any = kind
    try:
        optimizer = made([torch.zeros(1, 1, requires_grad=True)], lr=rate, **settings)
    except TypeError as error:  # an argument of another type
        raise ValueError(f"{kind.__name__}: {error}") from error
    defaults: dict[str, Any] = optimizer.defaults
    return defaults


def by_adam(steps: int) -> dict[Chosen, dict[str, Any]]:
    """Return the group of all parameters that Muon does not take, stepped by Adam."""
    rate = cosine(REST_LR, steps, warmup=steps // 100)
    return {_is_no_weight_matrix: {"optimizer": torch.optim.Adam, "lr": rate}}


def _is_no_weight_matrix(name: str, parameter: Tensor) -> bool:
    """Tell whether a parameter is anything else than the weight matrix of a layer.

    Layers name it "weight", recurrent ones "weight_ih_l0" and the like, parametrizations
    "weight.original". `pyro.module` writes "net$$$weight".
    """
    parts = name.replace("$$$", ".").split(".")
    return parameter.ndim != 2 or not any(part.startswith("weight") for part in parts)


def _made(kind: Any, group: dict[str, Any]) -> torch.optim.Optimizer:
    """Make an optimizer of a group, as for Muon, which takes matrices only."""
    try:
        made: torch.optim.Optimizer = kind([group])
    except ValueError as error:
        raise ValueError(
            f"{error}: give other parameters an optimizer of their own, as in groups="
            '{lambda name, p: p.ndim != 2: {"optimizer": torch.optim.AdamW}}'
        ) from error
    return made


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a learning rate; on a GPU in the tensor that a CUDA graph reads."""
    device, present = group["params"][0].device, group["lr"]
    if not group.get("capturable"):
        group["lr"] = rate
    elif isinstance(present, Tensor) and present.device == device:
        present.fill_(rate)
    else:
        group["lr"] = torch.tensor(rate, device=device)
