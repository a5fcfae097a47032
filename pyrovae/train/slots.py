"""Numbers that Python holds and that change from step to step, as inputs of a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae.graphs.holders import Holder
from pyrovae.graphs.signatures import float_type

__all__ = ["Place", "Slot", "place_of", "slot_tensors", "slots_at", "tensors_in_slots"]

Slot = tuple[Holder, Any]
"""A holder and the key of a number in it."""

Place = tuple[int, Any]
"""The same with the id of what the holder holds: a slot that can be hashed."""


def place_of(slot: Slot) -> Place:
    """Return a slot in the form that can be hashed."""
    holder, key = slot
    return id(holder.at), key


def slots_at(places: Collection[Place], holders: Sequence[Holder]) -> list[Slot]:
    """Return the slots of holders that are among places."""
    slots = ((holder, key) for holder in holders for key in holder.keys)
    return [slot for slot in slots if place_of(slot) in places]


def slot_tensors(slots: Sequence[Slot], given: Sequence[Any]) -> list[Tensor]:
    """Return the numbers in slots as tensors, of the dtype of a float among the arguments."""
    dtype = float_type(given)
    return [torch.tensor(float(holder.read(key)), dtype=dtype) for holder, key in slots]


@contextlib.contextmanager
def tensors_in_slots(slots: Sequence[Slot], tensors: Iterator[Tensor]) -> Iterator[None]:
    """Replace the numbers in slots by tensors for the block."""
    before = [holder.read(key) for holder, key in slots]
    try:
        for holder, key in slots:
            holder.write(key, next(tensors))
        yield
    finally:
        for (holder, key), value in zip(slots, before, strict=True):
            holder.write(key, value)
