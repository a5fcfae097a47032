r"""Pareto-smoothed importance sampling: the tail shape k-hat of weights, and smoothed weights.

Above a threshold u, weights follow approximately a generalized Pareto distribution,

    P(w - u > t | w > u) = (1 + k t / sigma)^(-1/k)

The moments of order below 1/k are finite: for k > 0.5 the variance is infinite. For k > 0.7 an
average of weights is unreliable at any practical number of particles. The limit is lower for few
particles (see `limit`).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = [
    "ENOUGH",
    "FEWEST",
    "SHORTEST",
    "TRUSTED",
    "beyond",
    "limit",
    "pareto_k",
    "particles_for",
    "psis",
    "smoothed",
    "tail_size",
]

TRUSTED: Final = 0.7
"""The largest k at which an average of weights is reliable, for any number of particles."""

ENOUGH: Final = 2_155
"""The number of particles from which the limit is 0.7."""

SHORTEST: Final = 5
"""The least number of weights in a tail."""

FEWEST: Final = 21
"""The least number of particles whose tail has five weights."""

_NOTHING: Final = 1e-300
"""A weight below this fraction of the largest weight counts as zero."""


def pareto_k(log_w: Tensor) -> Tensor:
    r"""Estimate the shape k of the tail of each datum's weights, [N].

    The tail has the $M = \lceil \min(K/5, 3 \sqrt K) \rceil$ largest weights. The estimate is that
    of Zhang and Stephens, shrunk towards 1/2 by a prior worth ten weights, $(M k + 5)/(M + 10)$.
    It is minus infinity if all weights of the tail are equal up to rounding. It is infinity if
    fewer than five weights of the tail exceed the threshold, or if all weights are zero.

    Args:
        log_w: log-weights [K, N].

    Returns:
        The estimates [N]; NaN for fewer than 21 particles, whose tail has fewer than five
        weights, and where a log-weight is NaN.

    Raises:
        ValueError: if log_w does not have shape [K, N].

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024. Pareto Smoothed Importance Sampling.
        Zhang, Stephens, 2009. A New and Efficient Estimation Method for the Generalized Pareto
        Distribution.

    Example:
        >>> import torch
        >>> from pyrovae.weights.psis import limit, pareto_k
        >>> light, heavy = torch.randn(1000), 4 * torch.randn(1000)
        >>> k = pareto_k(torch.stack([light, heavy, torch.zeros(1000)], dim=1))
        >>> k <= limit(1000)
        tensor([ True, False,  True])
        >>> k[2]
        tensor(-inf)
    """
    return psis(log_w)[1]


def limit(particles: int) -> float:
    r"""Return the largest k-hat at which an average of K weights is reliable.

    $$ \min(1 - 1 / \log_{10} K,\ 0.7) $$

    Raises:
        ValueError: for fewer than two particles.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024. Pareto Smoothed Importance Sampling.

    Example:
        >>> from pyrovae.weights.psis import limit
        >>> round(limit(100), 3), round(limit(1000), 3), limit(10_000)
        (0.5, 0.667, 0.7)
    """
    if particles < 2:
        raise ValueError(f"k-hat needs two particles or more; got particles={particles}")
    return min(1 - 1 / math.log10(particles), TRUSTED)


def beyond(shapes: Tensor, particles: int) -> Tensor:
    """Return which k-hats are above the limit at K particles. False for NaN.

    Example:
        >>> import torch
        >>> from pyrovae.weights.psis import beyond
        >>> beyond(torch.tensor([0.4, 0.6, torch.nan]), 100)
        tensor([False,  True, False])
    """
    return shapes > limit(max(particles, 2))


def particles_for(shape: float) -> int:
    r"""Return the number of particles from which k is within `limit`, $10^{1 / (1 - k)}$.

    Raises:
        ValueError: if k is above 0.7.

    Example:
        >>> from pyrovae.weights.psis import particles_for
        >>> particles_for(0.5), particles_for(0.7)
        (100, 2155)
    """
    if not shape <= TRUSTED:
        raise ValueError(
            f"no number of particles is enough for a k-hat above {TRUSTED}; got {shape}"
        )
    needed = math.ceil(10 ** (1 / (1 - shape)))
    return min(needed, ENOUGH)


def smoothed(log_w: Tensor) -> Tensor:
    """Return log-weights [K, N] with smoothed tails. Arguments and errors are as of `pareto_k`.

    The M largest weights are replaced by the quantiles (m - 1/2)/M of the fitted Pareto
    distribution, in the same order, truncated at the largest raw weight. Weights whose k-hat is
    not finite are unchanged. Averages of smoothed weights are biased and have a smaller variance.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024. Pareto Smoothed Importance Sampling.

    Example:
        >>> import torch
        >>> from pyrovae.weights.psis import smoothed, tail_size
        >>> log_w = torch.randn(1000, 1)
        >>> int((smoothed(log_w) != log_w).sum()) <= tail_size(1000)
        True
    """
    return psis(log_w)[0]


def psis(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return what PSIS finds, `smoothed` and `pareto_k`, from one fit of each tail.

    Raises:
        ValueError: if log_w does not have shape [K, N].

    Example:
        >>> import torch
        >>> from pyrovae.weights.psis import psis
        >>> weights, k = psis(torch.randn(1000, 3))
        >>> weights.shape, k.shape
        (torch.Size([1000, 3]), torch.Size([3]))
    """
    if log_w.ndim != 2 or len(log_w) < 1:
        raise ValueError(
            f"log-weights have shape [K particles, N data] with K >= 1; got {tuple(log_w.shape)}"
        )
    if len(log_w) < FEWEST:
        return log_w, torch.full_like(log_w[0], math.nan)
    rounding = 100 * torch.finfo(log_w.dtype).eps
    top, rows = log_w.detach().topk(tail_size(len(log_w)) + 1, dim=0)
    tails, k = _smooth(top.T.cpu().double(), rounding)
    k = torch.where(top[0].isnan().cpu(), math.nan, k)  # topk puts NaN first
    return log_w.scatter(0, rows[:-1], tails.T.to(log_w)), k.to(log_w)


def tail_size(particles: int) -> int:
    """Return the number M of weights in the tail of K weights.

    Example:
        >>> from pyrovae.weights.psis import tail_size
        >>> tail_size(20), tail_size(100), tail_size(5000)
        (4, 20, 213)
    """
    return math.ceil(min(particles / 5, 3 * math.sqrt(particles)))


def _smooth(top: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Return smoothed tails and k-hats of [N, M + 1], in descending order, the threshold last."""
    tail, largest, threshold = top[:, :-1], top[:, :1], top[:, -1:]
    base = (threshold - largest).exp()
    excess = (tail - largest).exp() - base
    above = excess > _NOTHING
    flat = largest - threshold <= rounding * largest.abs().clamp(min=1)
    rows = zip(excess, above.sum(1).tolist(), flat.flatten().tolist(), strict=True)
    fits = [(-math.inf, 0.0) if same else _fit(row[:n], rounding) for row, n, same in rows]
    k, sigma = torch.tensor(fits, dtype=torch.float64).T.unsqueeze(-1)
    beyond = (torch.arange(tail.shape[1]).double() + 0.5) / above.sum(1, keepdim=True)
    quantiles = sigma / k * torch.expm1(-k * beyond.log())
    weights = (quantiles + base).log().clamp(max=0) + largest
    return torch.where(above & k.isfinite(), weights, tail), k.squeeze(-1)


def _fit(excess: Tensor, rounding: float) -> tuple[float, float]:
    """Return shape and scale of the fit to excesses over a threshold, in descending order."""
    if len(excess) < SHORTEST:
        return math.inf, 0.0
    if excess[0] - excess[-1] <= rounding * excess[0]:
        return -math.inf, 0.0
    k, sigma = fit_generalized_pareto(excess)
    return k, sigma
