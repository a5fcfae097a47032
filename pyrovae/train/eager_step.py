"""Take a step of SVI eagerly, and note what it leaves and changes in Python."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from pyro.infer.util import torch_item
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.contents import detect_output
from pyrovae.graphs.holders import is_number
from pyrovae.graphs.outside import OUTSIDE, detect_outside
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments
from pyrovae.graphs.tensors import are_stored, same_kind, stored_among
from pyrovae.randomness import python_draws
from pyrovae.train.slots import Place, Slot, place_of
from pyrovae.weights.stored import ParamSites

__all__ = [
    "EagerStep",
    "eager_gradients",
    "observed",
    "unmatched_plates_refused",
]

PLATES: Final = "Found plate statements in guide but not model"
"""Pyro's warning of a guide whose plates the model lacks, which is an error here."""


@dataclass
class EagerStep:
    """An eager step: the Python state after it, and what it changed.

    Attributes:
        key: the programs, the shapes of the arguments and the settings.
        floats: the floats among the arguments.
        reach: the values that the programs can reach, after the step.
        announced: the parameters by the names of their param sites.
        side_effects: the names of the Python values that the step changed.
        varying: the floats among the arguments that were seen to change.
        changing: the number of successive steps with side effects.
    """

    key: Any
    floats: Mapping[int, float]
    reach: Reach
    announced: dict[str, Tensor]
    side_effects: list[str]
    varying: set[int] = field(default_factory=set)
    changing: int = 0

    def __post_init__(self) -> None:
        """Note which parameters require gradients and which are in Pyro's store."""
        self.flags = {
            p: p.requires_grad for p in (*self.reach.parameters, *self.announced.values())
        }
        self._stored = stored_among(self.announced)

    def is_static(self, arguments: Arguments, varying: Collection[Place]) -> bool:
        """Tell whether a step with these arguments starts from the state that this one left."""
        grown = any(holder.grown() for holder in self.reach.holders)
        flags = all(p.requires_grad is flag for p, flag in self.flags.items())
        if self.side_effects or grown or self.reach.changed_contents():
            return False
        if not (flags and are_stored(self._stored)):
            return False
        fixed = {i for i in self.floats if i not in self.varying}
        return all(self.floats[i] == arguments.floats[i] for i in fixed) and all(
            place_of((holder, key)) in varying or (same_kind(then, now) and self._is_sole(now))
            for holder, key, then, now in self.reach.changed()
        )

    def _is_sole(self, tensor: Tensor) -> bool:
        """Tell whether one place alone holds a tensor, so that a graph can follow it."""
        places = ((holder, key) for holder in self.reach.holders for key in holder.keys)
        return sum(holder.read(key) is tensor for holder, key in places) == 1

    def changed_floats(self) -> list[Slot]:
        """Return the places whose float has changed since the step."""
        return [
            (holder, key)
            for holder, key, then, now in self.reach.changed()
            if is_number(then) and is_number(now) and isinstance(then + now, float)
        ]

    def follow(self, last: EagerStep) -> None:
        """Continue what an earlier step with the same key has shown."""
        self.changing = last.changing + 1 if self.side_effects else 0
        self.varying = last.varying | {i for i, v in self.floats.items() if last.floats[i] != v}

    def deed(self) -> str:
        """Say the first of the side effects: what the programs change or read."""
        first = self.side_effects[0]
        return f"{'read' if first in OUTSIDE else 'change'} {first}"

    def sparse_gradient(self) -> str:
        """Name a parameter whose gradient is sparse; "" if there is none."""
        grads = {name: p.grad for name, p in self.announced.items() if p.grad is not None}
        return next((name for name, g in grads.items() if g.layout != torch.strided), "")


def eager_gradients(
    loss_and_grads: Callable[..., Any], programs: tuple[Any, Any], arguments: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Return the loss, and the parameters by name with their gradients in `grad`."""
    args, kwargs = arguments
    with ParamSites() as sites:
        loss = loss_and_grads(*programs, *args, **kwargs)
    sites.check(lambda leaf: leaf.grad is not None)
    return pytree.tree_map(torch_item, loss), sites.leaves


def observed(
    take: Callable[[], tuple[Any, dict[str, Tensor]]],
    roots: Sequence[Any],
    *,
    key: Any,
    floats: Mapping[int, float],
) -> tuple[Any, EagerStep]:
    """Take an eager step, and note the state that it leaves and its side effects.

    Args:
        take: takes the step; returns the loss and the parameters by name.
        roots: the programs and other objects that the step calls.
        key: as in `EagerStep`.
        floats: as in `EagerStep`.
    """
    before, draws = Reach(roots), python_draws()
    with detect_output() as said, detect_outside() as read:
        loss, announced = take()
    side_effects = before.side_effects() + said + read
    if python_draws() != draws:
        side_effects.append("Python's or numpy's random generator")
    after = Reach(roots) if before.changed() or side_effects else before
    return loss, EagerStep(key, floats, after, announced, side_effects)


@contextlib.contextmanager
def unmatched_plates_refused() -> Iterator[None]:
    """Raise a ValueError if the guide has plates that the model lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=PLATES)
        try:
            yield
        except UserWarning as refused:
            if PLATES not in str(refused):
                raise
            raise ValueError(str(refused)) from refused
