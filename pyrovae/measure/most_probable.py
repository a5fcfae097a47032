r"""Find the most probable value of each entry of x, averaged over weighted particles.

$$ \arg\max_c \sum_k \bar w_k\, p(x_i = c | z_k) $$
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.columns import JointColumns

__all__ = ["most_probable"]


def most_probable(fn: Any, weights: Tensor, mean: Tensor) -> Tensor:
    """Return the most probable value of each entry, [N, D].

    Args:
        fn: p(x | z) at all particles, with batch shape of P particles in all and N data.
        weights: the normalized weights, [C, K, N] with C K = P.
        mean: [N, D], returned for entries whose values are not finitely many.

    Example:
        >>> import pyro.distributions as dist
        >>> fn = dist.Bernoulli(torch.tensor([[[0.1]], [[0.9]]])).to_event(1)
        >>> most_probable(fn, torch.tensor([[[0.3], [0.7]]]), torch.zeros(1, 1))
        tensor([[1.]])
    """
    if isinstance(fn, JointColumns):
        values = mean.clone()
        for part, columns in zip(fn.parts, fn.groups, strict=True):
            values[..., columns] = most_probable(part, weights, mean[..., columns])
        return values
    while hasattr(fn, "base_dist"):  # `Independent` and `MaskedDistribution`
        fn = fn.base_dist
    best, values = torch.full_like(mean, -1.0), mean
    for value in _values(fn.support):
        scores = fn.log_prob(mean.new_full((), value)).exp().reshape(*weights.shape, -1)
        probability = (weights[..., None] * scores).sum((0, 1)).view_as(mean)
        values = torch.where(probability > best, value, values)
        best = torch.maximum(probability, best)
    return values


def _values(support: Any) -> range:
    """Return the values of a finite support of whole numbers, none for any other support."""
    if support is constraints.boolean:
        return range(2)
    if isinstance(support, constraints.integer_interval):
        return range(int(support.lower_bound), int(support.upper_bound) + 1)
    return range(0)
