"""Batches of sequences of about one length, so that little of a batch is padding.

A training step is compiled for each shape of its batch. So the batches have few lengths in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

__all__ = ["ByLength"]

LENGTHS: Final = 6
"""The number of lengths of the batches; with a smaller last batch, fewer than SVI has graphs."""


class ByLength:
    r"""Cut sequences into batches of about one length, without the steps that all of them lack.

    What a step costs grows with the length of its batch, padding included. An iteration permutes
    the sequences, sorts them by length, cuts them into batches, and permutes the batches; the
    order is drawn from torch's generator. Batches have at most 6 lengths, since a step is
    compiled for each shape: neighbors are cut to the longest sequence among them. Each sequence is
    in one batch, so that gradients are unbiased over an epoch, as with other batches.

    For `pv.fit`. A measurement of each datum, such as `pv.evaluate`, takes padded tensors, in
    whose order its results are.

    Args:
        x: padded sequences [N, T, ...].
        *context: covariates of each step [N, T, C] or of the sequence [N, C], if there are any;
            then the mask of the steps, booleans [N, T].
        batch_size: the number of sequences of a batch; the last one may have fewer.

    Raises:
        ValueError: if the last context is no mask of x, a sequence has no step or one after
            padding, or a context has another number of rows.

    Example:
        >>> import torch
        >>> from pyrovae.data import ByLength
        >>> x, mask = torch.ones(4, 9, 2), torch.arange(9) < torch.tensor([[9], [2], [8], [3]])
        >>> batches = ByLength(x, mask, batch_size=2)
        >>> sorted(tuple(part.shape) for part, _ in batches)
        [(2, 3, 2), (2, 9, 2)]
    """

    def __init__(self, x: Tensor, *context: Tensor, batch_size: int) -> None:
        self.values, self.batch_size = (x, *context), batch_size
        mask = self.values[-1]
        known = mask.dtype == torch.bool and mask.shape == x.shape[:2] and len(context) > 0
        if not known or not mask.numel() or batch_size < 1:
            raise ValueError(
                "batches by length take x [N, T, ...], any covariates and the mask of the steps, "
                "booleans [N, T], and a batch_size of 1 or more; got the shapes "
                f"{[tuple(value.shape) for value in self.values]}, a last one of {mask.dtype}, "
                f"and batch_size={batch_size}"
            )
        odd = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(1)
        if odd.any():
            raise ValueError(
                f"sequence {int(odd.nonzero()[0])} has no step, or a step after padding: move the "
                "steps to the front, as data.pad does"
            )
        rows = {len(value) for value in self.values}
        if len(rows) > 1:
            raise ValueError(f"x and its context need as many rows; got {sorted(rows)}")
        self.lengths = mask.sum(1)
        longest = [int(each[-1]) for each in self.lengths.sort().values.split(batch_size)]
        group = math.ceil(len(longest) / LENGTHS)
        last = len(longest) - 1
        self.cuts = [longest[min(i + group - 1 - i % group, last)] for i in range(len(longest))]

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over the sequences once. The order is drawn first."""
        order = torch.randperm(len(self.lengths)).to(self.lengths.device)
        order = order[self.lengths[order].argsort(stable=True)]
        batches = order.split(self.batch_size)
        turn = torch.randperm(len(batches)).tolist()
        return (self._batch(batches[i], self.cuts[i]) for i in turn)

    def _batch(self, rows: Tensor, steps: int) -> tuple[Tensor, ...]:
        x, *covariates, mask = self.values

        def cut(value: Tensor) -> Tensor:
            of_each_step = value.ndim > 2 and value.shape[1] == mask.shape[1]
            return value[rows, :steps] if of_each_step else value[rows]

        return x[rows, :steps], *map(cut, covariates), mask[rows, :steps]
