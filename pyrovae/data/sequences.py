"""Pad sequences of several lengths to one tensor, with the mask that tells steps from padding."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.layouts import valued

__all__ = ["pad", "steps_of"]

LARGE: Final = 2**30
"""The bytes from which on padding is worth a warning, 1 GiB."""

SPARSE: Final = 0.1
"""The share of steps in x below which nearly all of it is padding."""


def pad(sequences: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor [N, T, ...] with zeros at their ends, and their mask [N, T].

    Args:
        sequences: tensors or arrays [T_n, ...] of one shape but for T_n, each with a step or more.

    Raises:
        ValueError: if there are none, one has no step, or their steps differ in shape.

    Warns:
        UserWarning: if x takes more than 1 GiB, nine tenths of it padding.

    Example:
        >>> import torch
        >>> from pyrovae.data import pad
        >>> x, mask = pad([torch.ones(3, 2), torch.ones(1, 2)])
        >>> x.shape, mask
        (torch.Size([2, 3, 2]), tensor([[ True,  True,  True],
                [ True, False, False]]))
    """
    rows = [torch.as_tensor(each) for each in sequences]
    if not rows:
        raise ValueError("expected at least one sequence; got none")
    shapes = {tuple(row.shape[1:]) for row in rows}
    short = [n for n, row in enumerate(rows) if row.ndim < 2 or len(row) == 0]
    if short or len(shapes) > 1:
        met = f"sequence {short[0]} of shape {tuple(rows[short[0]].shape)}" if short else shapes
        raise ValueError(
            f"expected sequences [T, ...] of one or more steps, all of one shape; got {met}"
        )
    lengths = torch.tensor([len(row) for row in rows])
    _warn_of_padding(lengths, rows[0][0])
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return x, torch.arange(x.shape[1]) < lengths.unsqueeze(1)


def _warn_of_padding(lengths: Tensor, step: Tensor) -> None:
    """Warn, before memory is taken, if a few long sequences pad the others to a large tensor."""
    longest = int(lengths.max())
    size = len(lengths) * longest * step.numel() * step.element_size()
    share = float(lengths.double().mean()) / longest
    if size > LARGE and share < SPARSE:
        warnings.warn(
            f"sequence {int(lengths.argmax())} has {longest:,} steps, and half of them have at "
            f"most {int(lengths.median()):,}: padded, all take {size / 2**30:.1f} GiB, of which "
            f"{share:.1%} are steps. Cut or leave out the longest",
            stacklevel=3,
        )


def steps_of(x: Any, mask: Any, where: str) -> tuple[Tensor, Tensor, constraints.Constraint]:
    """Return sequences [N, T, D] as floats, zero at padding, their mask, and the domain of a step.

    Args:
        x: the sequences, of any type; what padding holds is ignored.
        mask: [N, T], True or 1 where there is a step.
        where: the name of the data, for error messages.

    Raises:
        ValueError: if the mask has other values, a sequence has no step, or a step has no finite
            values.

    Example:
        >>> x, mask, domain = steps_of([[[2], [1]], [[0], [9]]], [[1, 1], [1, 0]], "two")
        >>> x.flatten(1), mask.sum(1), domain
        (tensor([[2., 1.],
                [0., 0.]]), tensor([2, 1]), IntegerGreaterThan(lower_bound=0))
    """
    values, given = torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(mask))
    steps = given.bool()
    if not bool((given == steps).all()):
        raise ValueError(f"the mask of {where} is True or 1 at a step, and False or 0 at padding")
    odd = (~steps.any(1) | (steps & ~torch.isfinite(values).all(2)).any(1)).nonzero().flatten()
    if len(odd):
        raise ValueError(
            f"{where} has no step, or NaN or infinite values, in {len(odd)} of {len(steps)} "
            f"sequences, the first at row {int(odd[0])}: drop these sequences"
        )
    found, domain = valued(values[steps], tuple(values.shape[2:]), counts=False, where=where)
    whole = found.new_zeros(values.shape)
    whole[steps] = found
    return whole, steps, domain
