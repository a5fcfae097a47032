r"""Find the most probable value of each entry of x, averaged over weighted particles.

$$ \arg\max_c \sum_k \bar w_k\, p(x_i = c | z_k) $$
"""

from __future__ import annotations

from typing import Any, Final

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pyrovae.weights.rows import Folded

__all__ = ["most_probable"]

WRAPPERS: Final = (Independent, MaskedDistribution, ExpandedDistribution, Folded)
"""Distributions whose `base_dist` has the same probabilities of complete data.

Others with a `base_dist`, such as one that is inflated at zero, have probabilities of their own.
"""


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
    while isinstance(fn, WRAPPERS) or hasattr(fn, "present"):  # `Present`
        fn = fn.base_dist
    if hasattr(fn, "parts") and hasattr(fn, "groups"):  # `JointColumns`
        values = mean.clone()
        for part, columns in zip(fn.parts, fn.groups, strict=True):
            values[..., columns] = most_probable(part, weights, mean[..., columns])
        return values
    best, values = torch.full_like(mean, -1.0), mean
    support = _of_one(fn.support)
    for value in _values(support):
        entries = mean.new_full((), value)
        known = support.check(entries)  # Entries may have different numbers of values.
        scores = fn.log_prob(torch.where(known, entries, _lowest(support))).exp()
        scores = torch.where(known, scores, 0.0).reshape(*weights.shape, -1)
        probability = (weights[..., None] * scores).sum((0, 1)).view_as(mean)
        values = torch.where(probability > best, value, values)
        best = torch.maximum(probability, best)
    return values


def _of_one(support: Any) -> Any:
    """Return the support of a component, if a support is that of a mixture."""
    mixed = isinstance(support, MixtureSameFamilyConstraint)
    return support.base_constraint if mixed else support


def _lowest(support: Any) -> Any:
    return getattr(support, "lower_bound", 0)


def _values(support: Any) -> range:
    """Return the values of a finite support of whole numbers, none for any other support."""
    if support is constraints.boolean:
        return range(2)
    if isinstance(support, constraints.integer_interval):
        ends = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
        return range(int(ends[0].min()), int(ends[1].max()) + 1)
    return range(0)
