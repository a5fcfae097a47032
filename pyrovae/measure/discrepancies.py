"""What a data set looks like, in one number each: discrepancies T(x) of data x, [N, D].

They are for predictive checks, which ask whether data drawn from a model look like the real ones.
Each is a plain function, smooth enough to be compared and cheap enough to be computed often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

Discrepancy = Callable[[Tensor], Tensor]

NEIGHBOURS: Final = 200
"""The data among which nearest neighbors are sought: the first so many."""


def mean(x: Tensor) -> Tensor:
    """Return the mean of all entries.

    Example:
        >>> mean(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        tensor(2.)
    """
    return x.mean()


def standard_deviation(x: Tensor) -> Tensor:
    """Return the root of the mean over dimensions of the variance over data.

    Example:
        >>> standard_deviation(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        tensor(1.5811)
    """
    return _centered(x).square().mean().sqrt()


def kurtosis(x: Tensor) -> Tensor:
    r"""Return the mean fourth power over the squared mean square, about the dimensions' means.

    3 where the entries are normal with one variance, more where their tails are heavier.

    Example:
        >>> kurtosis(torch.tensor([[0.0], [0.0], [0.0], [1.0], [-1.0]]))
        tensor(2.5000)
    """
    centered = _centered(x)
    return centered.pow(4).mean() / centered.square().mean().square().clamp(min=1e-300)


def share_of_zeros(x: Tensor) -> Tensor:
    """Return the share of the entries that are exactly zero.

    Example:
        >>> share_of_zeros(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        tensor(0.5000)
    """
    return (x == 0).to(x).mean()


def effective_rank(x: Tensor) -> Tensor:
    r"""Return how many directions the variance is spread over, by the covariance's spectrum.

    $$ \Big(\sum_i \lambda_i\Big)^2 \Big/ \sum_i \lambda_i^2 $$

    1 where all dimensions move together, D where they are uncorrelated with one variance.

    Example:
        >>> effective_rank(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        tensor(1.)
    """
    centered = _centered(x)
    rows, columns = centered.shape
    gram = centered @ centered.mT if rows < columns else centered.mT @ centered
    return centered.square().sum().square() / gram.square().sum().clamp(min=1e-300)


def nearest_neighbor(x: Tensor) -> Tensor:
    """Return the mean distance to the nearest other datum, among the first 200.

    Small where data come in clumps, as do those of a model that has collapsed to a few modes.

    Example:
        >>> nearest_neighbor(torch.tensor([[0.0], [1.0], [4.0]]))
        tensor(1.6667)
    """
    some = x[:NEIGHBOURS].flatten(1)
    distances = torch.cdist(some, some, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.amin(1).mean()


def _centered(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat - flat.mean(0)


DISCREPANCIES: Final[Mapping[str, Discrepancy]] = MappingProxyType(
    {
        "mean": mean,
        "standard deviation": standard_deviation,
        "kurtosis": kurtosis,
        "share of zeros": share_of_zeros,
        "effective rank": effective_rank,
        "nearest neighbor": nearest_neighbor,
    }
)
"""What a predictive check compares if nothing else is asked for."""
