"""Pad sequences of several lengths to one tensor, with the mask that tells steps from padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["pad"]


def pad(sequences: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor [N, T, ...] with zeros at their ends, and their mask [N, T].

    Args:
        sequences: tensors or arrays [T_n, ...] of one shape but for T_n, each with a step or more.

    Raises:
        ValueError: if there are none, one has no step, or their steps differ in shape.

    Example:
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
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return x, torch.arange(x.shape[1]) < lengths.unsqueeze(1)
