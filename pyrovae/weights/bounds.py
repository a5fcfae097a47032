r"""Bounds on log p(x), as reductions of log-weights [K, N] over the particles.

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n),    z_kn ~ q(z | x_n)

Rows are particles, columns are data. Each reduction returns one value per datum, [N], in nats. A
function `..._estimate` also returns the standard error over particles (see
`pyrovae.weights.estimates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pyrovae.weights.estimates import (
    Z95,
    Estimate,
    difference,
    mean_estimate,
    students_factor,
)

__all__ = [
    "Z95",
    "Estimate",
    "bits_per_dimension",
    "check_alpha",
    "check_order",
    "check_share",
    "ciwae",
    "cubo",
    "difference",
    "effective_sample_size",
    "elbo",
    "elbo_estimate",
    "extrapolated_estimate",
    "iwae",
    "iwae_estimate",
    "log_mean_exp",
    "mean_estimate",
    "normalized_weights",
    "power_mean",
    "renyi",
    "streaming_log_mean_exp",
    "students_factor",
]


def elbo(log_w: Tensor) -> Tensor:
    r"""Return the evidence lower bound, $\frac1K \sum_k \log w_{kn}$, of shape [N].

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import elbo
        >>> elbo(torch.tensor([[-1.0, 0.0], [-3.0, 0.0]]))
        tensor([-2.,  0.])
    """
    return _checked(log_w).mean(0)


def elbo_estimate(log_w: Tensor) -> Estimate:
    """Return the ELBO [N] with its standard error over particles.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import elbo_estimate
        >>> elbo_estimate(torch.tensor([[-1.0], [-3.0]]))
        Estimate(mean -2.000 ± 1.000 over particles, 1 data)
    """
    return mean_estimate(_checked(log_w))


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""Return the importance-weighted bound at K, $\log \frac1K \sum_k w_{kn}$, of shape [N].

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import log_mean_exp
        >>> log_mean_exp(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """
    return _checked(log_w).logsumexp(0) - math.log(len(log_w))


def streaming_log_mean_exp(chunks: Iterable[Tensor]) -> Tensor:
    """Return the log-mean-exp over all rows of chunks [K_i, N], with one chunk in memory.

    The result equals `log_mean_exp` of the concatenated chunks up to rounding.

    Raises:
        ValueError: if there are no chunks.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import log_mean_exp, streaming_log_mean_exp
        >>> log_w = torch.tensor([[0.0], [-1.0], [-2.0]])
        >>> torch.allclose(streaming_log_mean_exp(log_w.split(2)), log_mean_exp(log_w))
        True
    """
    total, particles = None, 0
    for chunk in chunks:
        part = _checked(chunk).logsumexp(0)
        total = part if total is None else torch.logaddexp(total, part)
        particles += len(chunk)
    if total is None:
        raise ValueError(
            "streaming_log_mean_exp needs at least one chunk of log-weights; got none"
        )
    return total - math.log(particles)


def iwae(log_w: Tensor, k: int | None = None) -> Tensor:
    r"""Return the importance-weighted bound at k particles, of shape [N].

    $$ L_k = E \log \frac1k \sum_{i=1}^k w_i,\qquad L_1 = ELBO \le L_k \le L_{k+1} \le \log p(x) $$

    The result is the average log-mean-exp of K // k disjoint groups of k rows. It is an unbiased
    estimate of $L_k$ for each k. Rows that do not fill a group are not used.

    Args:
        log_w: [K, N].
        k: the number of particles in the bound, 1 to K; None for K.

    Raises:
        ValueError: if k is not between 1 and K.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import iwae
        >>> iwae(torch.tensor([[0.0], [-2.0], [-1.0], [-1.0]]), k=2)
        tensor([-0.7831])
    """
    return _group_bounds(log_w, k).mean(0)


def power_mean(log_w: Tensor, power: float, k: int | None = None) -> Tensor:
    r"""Return the power-mean bound of order p, of shape [N].

    $$ L_p = \tfrac1p \log \tfrac1k \sum_{i=1}^k w_i^p $$

    Order 1 is IWAE, order $1 - \alpha$ the Renyi bound, and order n the CUBO. The limit at order
    0 is the ELBO. The result is averaged over groups of k rows, as in `iwae`.

    Raises:
        ValueError: if k is not between 1 and K.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import power_mean
        >>> log_w = torch.tensor([[0.0], [-2.0]])
        >>> [round(power_mean(log_w, p).item(), 4) for p in (-1.0, 0.0, 1.0, 2.0)]
        [-1.4338, -1.0, -0.5662, -0.3375]
    """
    if power == 0:
        return _grouped(log_w, k).mean((0, 1))
    return _group_bounds(power * log_w, k).mean(0) / power


def renyi(log_w: Tensor, alpha: float, k: int | None = None) -> Tensor:
    r"""Return the Renyi bound, $\frac{1}{1-\alpha} \log \frac1k \sum_i w_i^{1-\alpha}$.

    It decreases in alpha: alpha = 0 is IWAE, and alpha -> 1 the ELBO. For alpha >= 0 it is a
    lower bound of $\log p(x)$ in expectation. For alpha < 0 it is an upper bound as k grows.

    Raises:
        ValueError: if alpha is 1 or not finite, or k not between 1 and K.

    References:
        Li, Turner, 2016. Renyi Divergence Variational Inference.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import renyi
        >>> renyi(torch.tensor([[0.0], [-2.0]]), alpha=0.5)
        tensor([-0.7598])
    """
    check_alpha(alpha)
    return power_mean(log_w, 1 - alpha, k)


def check_alpha(alpha: float) -> None:
    """Check the order of a Renyi bound.

    Raises:
        ValueError: if alpha is 1 or not finite.
    """
    if alpha == 1 or not math.isfinite(alpha):
        raise ValueError(
            f"a Renyi bound has a finite order alpha other than 1; got {alpha}: use elbo for "
            "alpha = 1"
        )


def cubo(log_w: Tensor, n: float = 2.0, k: int | None = None) -> Tensor:
    r"""Estimate the chi upper bound, $\frac1n \log \frac1k \sum_i w_i^n$, of shape [N].

    The bound is $CUBO_n = \frac1n \log E_q[w^n] \ge \log p(x)$. This estimate from k particles is
    biased low, often strongly, and may be below $\log p(x)$. It is an upper bound as k grows.

    Raises:
        ValueError: if n is below 1, or k not between 1 and K.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei, 2017. Variational Inference via chi Upper Bound
        Minimization.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import cubo
        >>> cubo(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.3375])
    """
    check_order(n)
    return power_mean(log_w, n, k)


def check_order(n: float) -> None:
    """Check the order of a CUBO.

    Raises:
        ValueError: if n is below 1 or not finite.
    """
    if not 1 <= n < math.inf:
        raise ValueError(f"CUBO is an upper bound for a finite order n >= 1; got n = {n}")


def ciwae(log_w: Tensor, beta: float) -> Tensor:
    r"""Return the convex combination $\beta\, ELBO + (1 - \beta)\, IWAE_K$, of shape [N].

    Raises:
        ValueError: if beta is not between 0 and 1.

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import ciwae
        >>> ciwae(torch.tensor([[0.0], [-2.0]]), beta=0.5)
        tensor([-0.7831])
    """
    check_share(beta)
    if beta == 0:
        return iwae(log_w)
    return elbo(log_w) if beta == 1 else beta * elbo(log_w) + (1 - beta) * iwae(log_w)


def check_share(beta: float) -> None:
    """Check the weight of the ELBO in CIWAE.

    Raises:
        ValueError: if beta is not between 0 and 1.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"CIWAE weights the ELBO by beta between 0 and 1; got beta = {beta}")


def iwae_estimate(log_w: Tensor, k: int | None = None) -> Estimate:
    r"""Return the importance-weighted bound at k [N] with its standard error over particles.

    With two or more groups of k rows, it is the standard error of their mean. With one group, it
    is the jackknife error, as in `extrapolated_estimate`:

    $$ \sqrt{\tfrac{k-1}{k} \textstyle\sum_i (L^{(-i)} - \bar L)^2}, $$

    where $L^{(-i)}$ is the bound without particle i and $\bar L$ their mean. It is NaN if all
    weights but one are zero. The delta method, the relative error of the mean weight, gives too
    small an error for skewed weights.

    Raises:
        ValueError: if k is not between 1 and K.

    References:
        Efron, Stein, 1981. The Jackknife Estimate of Variance.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import iwae_estimate
        >>> iwae_estimate(torch.tensor([[0.0], [-2.0], [-1.0], [-1.0]]), k=2)
        Estimate(mean -0.783 ± 0.217 over particles, 1 data)
    """
    value, (relative, _) = iwae(log_w, k), _relative(log_w)
    groups, own = _group_bounds(relative, k), relative[: k or len(relative)]
    several = len(groups) > 1 or len(own) < 2
    return Estimate(
        value, mean_estimate(groups if several else _pseudo_values(own)).standard_error
    )


def extrapolated_estimate(log_w: Tensor) -> Estimate:
    r"""Extrapolate the importance-weighted bounds to infinitely many particles.

    If the weights have finite variance, $L_k = \log p(x) - c/k + O(k^{-2})$. The jackknife
    removes the term in 1/k. The estimate is the mean of the pseudo-values

    $$ K L_K - (K - 1) L_{K-1}^{(-i)}, $$

    where $L_{K-1}^{(-i)}$ is the bound without particle i, with their standard error. The
    remaining bias is $O(K^{-2})$ and has either sign, so the estimate is not a bound. It is
    reliable only if the Pareto k-hat is at most `psis.limit(K)`, and NaN if all weights but one
    are zero.

    Raises:
        ValueError: for fewer than two particles.

    References:
        Nowozin, 2018. Debiasing Evidence Approximations: On Importance-weighted Autoencoders and
        Jackknife Variational Inference.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import extrapolated_estimate
        >>> extrapolated_estimate(torch.tensor([[0.0], [-2.0]])).value  # 2 L_2 - L_1
        tensor([-0.1324])
    """
    particles = len(_checked(log_w))
    if particles < 2:
        raise ValueError("the extrapolation leaves one particle out of two or more; got one")
    relative, largest = _relative(log_w)
    found = mean_estimate(_pseudo_values(relative))
    return Estimate(found.value + largest, found.standard_error)


def _relative(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-weights relative to the largest of each datum, and the largest, [N].

    Single precision holds log p(x) = -1e6 to 0.06 nats, so that differences of terms of this size
    have no digit left. It is 0 where the largest is not finite.
    """
    largest = log_w.amax(0)
    largest = torch.where(largest.isfinite(), largest, 0.0)
    return log_w - largest, largest


def _pseudo_values(log_w: Tensor) -> Tensor:
    """Return the jackknife's pseudo-values of the bound at K, [K, N]."""
    particles = len(log_w)
    total, largest = log_w.logsumexp(0, keepdim=True), log_w.argmax(0, keepdim=True)
    # For the largest weight, sum the others directly: 1 minus its share loses precision.
    others = log_w.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True)
    left = torch.log1p(-log_w.softmax(0)).scatter(0, largest, others - total)
    rest = particles - 1
    constant = rest * math.log(rest) - particles * math.log(particles)
    # Without the only weight that is not zero, the bound is minus infinity.
    return total + constant - torch.where(left == -math.inf, math.nan, rest * left)


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Return Kish's effective sample size, $(\sum_k w_k)^2 / \sum_k w_k^2$, of shape [N].

    It is 1 if one particle has all the weight, K if all weights are equal, 0 if all weights are
    zero, and NaN if a log-weight is.

    References:
        Kong, 1992. A Note on Importance Sampling using Standardized Weights.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import effective_sample_size
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -90.0]]))
        tensor([2., 1.])
    """
    relative, _ = _relative(_checked(log_w))
    log_size = 2 * relative.logsumexp(0) - (2 * relative).logsumexp(0)
    return torch.where(log_w.amax(0) == -math.inf, 0.0, log_size.exp())


def normalized_weights(log_w: Tensor, k: int | None = None) -> Tensor:
    r"""Return $w_i / \sum_{j} w_j$ within each group of k rows, of the shape of log_w.

    Raises:
        ValueError: if k does not divide K.

    Example:
        >>> import torch
        >>> from pyrovae.weights.bounds import normalized_weights
        >>> normalized_weights(torch.tensor([[0.0], [0.0]]))
        tensor([[0.5000],
                [0.5000]])
    """
    grouped = _grouped(log_w, k)
    if grouped.shape[:2].numel() != len(log_w):
        raise ValueError(f"groups of {k} do not divide {len(log_w)} log-weights")
    return grouped.softmax(1).reshape(log_w.shape)


def bits_per_dimension(nats: float | Tensor, dimensions: int) -> float | Tensor:
    r"""Return the code length of a log-probability, $-\log p(x) / (D \log 2)$, bits per dimension.

    It is comparable between models of the same integer pixels. If `nats` is a density of pixels
    that were divided by 256, add 8 bits.

    Args:
        nats: a log-probability or a bound on it, in nats.
        dimensions: D, the number of dimensions of x, such as channels times height times width.

    Raises:
        ValueError: if D is below 1.

    Example:
        >>> from math import log
        >>> from pyrovae.weights.bounds import bits_per_dimension
        >>> bits_per_dimension(-28 * 28 * log(256), 28 * 28)  # 256 equally likely levels
        8.0
    """
    if dimensions < 1:
        raise ValueError(f"x has at least one dimension; got dimensions={dimensions}")
    return -nats / (dimensions * math.log(2))


def _group_bounds(log_w: Tensor, k: int | None) -> Tensor:
    grouped = _grouped(log_w, k)
    return grouped.logsumexp(1) - math.log(grouped.shape[1])


def _grouped(log_w: Tensor, k: int | None) -> Tensor:
    """Split the rows into groups, [K // k, k, ...]."""
    particles = len(_checked(log_w))
    k = particles if k is None else k
    if not 1 <= k <= particles:
        raise ValueError(
            f"IWAE-k needs 1 <= k <= K; got k = {k} with K = {particles} log-weights: "
            "draw more particles or ask for a smaller k"
        )
    groups = particles // k
    return log_w[: groups * k].reshape(groups, k, *log_w.shape[1:])


def _checked(log_w: Tensor) -> Tensor:
    if log_w.ndim < 1 or len(log_w) < 1:
        raise ValueError(
            f"log-weights have shape [K particles, N data] with K >= 1; got {tuple(log_w.shape)}"
        )
    return log_w
