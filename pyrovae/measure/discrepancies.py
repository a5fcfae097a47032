"""Discrepancies T(x): functions that summarize a data set x, [N, ...], by one number.

`PredictiveCheck` compares their values on real data with their values on data drawn from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "DISCREPANCIES",
    "Discrepancy",
    "effective_rank",
    "kurtosis",
    "mean",
    "nearest_neighbor",
    "share_of_zeros",
    "standard_deviation",
]

Discrepancy = Callable[[Tensor], Tensor]
"""A function of a data set [N, ...] that returns one number."""

NEIGHBORS: Final = 200
"""The number of data, the first ones, that `nearest_neighbor` looks at."""


def mean(x: Tensor) -> Tensor:
    """Return the mean of all entries.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import mean
        >>> mean(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        tensor(2.)
    """
    return x.mean()


def standard_deviation(x: Tensor) -> Tensor:
    """Return the square root of the variance over data, averaged over dimensions.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import standard_deviation
        >>> standard_deviation(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        tensor(1.5811)
    """
    return _centered(x).square().mean().sqrt()


def kurtosis(x: Tensor) -> Tensor:
    r"""Return the kurtosis of all entries, each centered at the mean of its dimension.

    $$ \frac{\overline{(x - \bar x)^4}}{\big(\overline{(x - \bar x)^2}\big)^2} $$

    It is 3 if the entries are normal with equal variances, and larger for heavier tails.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import kurtosis
        >>> kurtosis(torch.tensor([[0.0], [0.0], [0.0], [1.0], [-1.0]]))
        tensor(2.5000)
    """
    centered = _centered(x)
    return centered.pow(4).mean() / centered.square().mean().square().clamp(min=1e-300)


def share_of_zeros(x: Tensor) -> Tensor:
    """Return the share of the entries that are exactly zero.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import share_of_zeros
        >>> share_of_zeros(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        tensor(0.5000)
    """
    return (x == 0).to(x).mean()


def effective_rank(x: Tensor) -> Tensor:
    r"""Return the participation ratio of the covariance's eigenvalues $\lambda_i$.

    $$ \Big(\sum_i \lambda_i\Big)^2 \Big/ \sum_i \lambda_i^2 $$

    It is 1 if all dimensions are perfectly correlated, and D if they are uncorrelated with equal
    variances.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import effective_rank
        >>> effective_rank(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        tensor(1.)
    """
    centered = _centered(x)
    rows, columns = centered.shape
    gram = centered @ centered.mT if rows < columns else centered.mT @ centered
    return centered.square().sum().square() / gram.square().sum().clamp(min=1e-300)


def nearest_neighbor(x: Tensor) -> Tensor:
    """Return the mean Euclidean distance to the nearest other datum, among the first 200 data.

    It is small if the data are clustered, as for a model that has collapsed to a few modes.

    Example:
        >>> import torch
        >>> from pyrovae.measure.discrepancies import nearest_neighbor
        >>> nearest_neighbor(torch.tensor([[0.0], [1.0], [4.0]]))
        tensor(1.6667)
    """
    some = x[:NEIGHBORS].flatten(1)
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
"""The discrepancies that `PredictiveCheck` compares by default."""
