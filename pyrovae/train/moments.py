"""Keep what an optimizer has gathered, such as the moments of Adam, to put it back.

A step that leaves parameters of NaN leaves moments of NaN too. Parameters that are restored alone
would become NaN again at the next step of the same optimizer, in whatever training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Moments"]


class Moments:
    """Copies of the states of an optimizer's parameters, and of the settings of its groups.

    Args:
        optim: a Pyro optimizer, or one of the library.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self.optim, self._made = optim, set(optim.optim_objs)
        self._states: dict[Tensor, Any] = {}
        self._settings: dict[int, dict[str, Any]] = {}
        for optimizer, group in _groups(optim):
            self._settings[id(group["params"])] = _numbers(group)
            for parameter in group["params"]:
                if optimizer.state.get(parameter):
                    self._states[parameter] = _copied(optimizer.state[parameter])

    def restore(self) -> None:
        """Put the states back; a parameter that had none begins anew."""
        optim_objs = self.optim.optim_objs
        for parameter in optim_objs.keys() - self._made:
            del optim_objs[parameter]
        for optimizer, group in _groups(self.optim):
            group.update(self._settings.get(id(group["params"]), {}))
            for parameter in group["params"]:
                optimizer.state.pop(parameter, None)
                state = self._states.get(parameter) or _first(optimizer, group, parameter)
                if state:
                    optimizer.state[parameter] = _copied(state)


def _groups(optim: PyroOptim) -> Iterator[tuple[torch.optim.Optimizer, dict[str, Any]]]:
    """Yield the torch optimizers that a Pyro optimizer has made, with each of their groups."""
    made = [*optim.optim_objs.values(), *getattr(optim, "optimizers", [])]
    made += [getattr(optim, "optimizer", None)]
    steppers = {id(each): each for each in (getattr(m, "optimizer", m) for m in made) if each}
    for optimizer in steppers.values():
        for group in optimizer.param_groups:
            yield optimizer, group


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that are numbers; a tensor may be one that a graph reads."""
    return {name: value for name, value in group.items() if isinstance(value, int | float)}


def _first(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> Any:
    """Return the state before the first step; Adagrad alone makes one when it is constructed."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        return None
    return type(optimizer)([{**group, "params": [parameter]}]).state[parameter]


def _copied(state: Any) -> Any:
    return pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, state)
