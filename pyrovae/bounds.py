r"""Every reported number is a reduction of one tensor of log-weights [K, N].

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n),    z_kn ~ q(z | x_n)

Rows are particles, columns are data; a reduction takes the rows away and leaves [N], in nats.
This module knows nothing of programs: it imports torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number for each datum and the standard error that the particles leave on it.

    The mean over data carries two errors. `error_over_data` tells how another test set (with
    other particles) would differ; `error_over_particles` how another seed on these data would.

    Attributes:
        value: [N], in nats.
        standard_error: [N], over particles; NaN where one particle cannot tell.
    """

    value: Tensor
    standard_error: Tensor

    @property
    def mean(self) -> float:
        """The mean over data."""
        return self.value.cpu().double().mean().item()

    @property
    def error_over_data(self) -> float:
        """The standard error of the mean as a mean over the population of data (NaN at N = 1)."""
        if len(self.value) < 2:
            return math.nan
        return self.value.cpu().double().std().item() / math.sqrt(len(self.value))

    @property
    def error_over_particles(self) -> float:
        """The standard error of the mean given these data."""
        return self.standard_error.cpu().double().square().sum().sqrt().item() / len(self.value)


def elbo(log_w: Tensor) -> Tensor:
    r"""Return the evidence lower bound, $\frac1K \sum_k \log w_{kn}$, of shape [N].

    Example:
        >>> elbo(torch.tensor([[-1.0, 0.0], [-3.0, 0.0]]))
        tensor([-2.,  0.])
    """
    return _checked(log_w).mean(0)


def elbo_estimate(log_w: Tensor) -> Estimate:
    """Return the ELBO with the standard error of its mean over K particles."""
    return mean_estimate(_checked(log_w))


def mean_estimate(values: Tensor) -> Estimate:
    r"""Return the mean over rows of [K, N] and its standard error $s / \sqrt{K}$."""
    spread = values.std(0) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), spread / math.sqrt(len(values)))


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""Return $\log \frac1K \sum_k w_{kn}$, of shape [N]: the importance-weighted bound at K.

    Example:
        >>> log_mean_exp(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """
    return _checked(log_w).logsumexp(0) - math.log(len(log_w))


def streaming_log_mean_exp(chunks: Iterable[Tensor]) -> Tensor:
    """Return the log-mean-exp over all rows of chunks [K_i, N], one chunk in memory at a time.

    Equal to `log_mean_exp` of the concatenation, up to rounding.

    Raises:
        ValueError: if there is no chunk.

    Example:
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

    The rows are cut into K // k disjoint groups of k, whose log-mean-exps are averaged: unbiased
    for $L_k$, for every k from one set of weights. Rows beyond the last whole group are unused.

    Args:
        log_w: [K, N].
        k: particles in the bound, 1 to K; all K where it is None.

    Raises:
        ValueError: if k is not between 1 and K.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> iwae(torch.tensor([[0.0], [-2.0], [-1.0], [-1.0]]), k=2)
        tensor([-0.7831])
    """
    return _group_bounds(log_w, k).mean(0)


def iwae_estimate(log_w: Tensor, k: int | None = None) -> Estimate:
    r"""Return the importance-weighted bound at k with its standard error over particles.

    With two groups or more the error is that of their mean. With one group there is nothing to
    compare, and the error is the delta method's, the relative error of the mean weight,

    $$ \sqrt{\tfrac{K}{K-1} \left( \frac{\sum_k w_k^2}{(\sum_k w_k)^2} - \frac1K \right)}, $$

    which is honest while the effective sample size is large.
    """
    groups = _group_bounds(log_w, k)
    if len(groups) > 1:
        return mean_estimate(groups)
    return Estimate(groups[0], _relative_error(log_w[: k or len(log_w)]))


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Return Kish's effective sample size, $(\sum_k w_k)^2 / \sum_k w_k^2$, of shape [N].

    From 1, one particle carries all the weight, to K, all weights are equal; 0 where every
    weight is zero.

    References:
        Kong, 1992. A Note on Importance Sampling using Standardized Weights.

    Example:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -90.0]]))
        tensor([2., 1.])
    """
    log_size = 2 * _checked(log_w).logsumexp(0) - (2 * log_w).logsumexp(0)
    return torch.where(log_w.amax(0) > -math.inf, log_size.exp(), 0.0)


def _group_bounds(log_w: Tensor, k: int | None) -> Tensor:
    particles = len(_checked(log_w))
    k = particles if k is None else k
    if not 1 <= k <= particles:
        raise ValueError(
            f"IWAE-k needs 1 <= k <= K; got k = {k} with K = {particles} log-weights: "
            "draw more particles or ask for a smaller k"
        )
    groups = particles // k
    grouped = log_w[: groups * k].reshape(groups, k, *log_w.shape[1:])
    return grouped.logsumexp(1) - math.log(k)


def _relative_error(log_w: Tensor) -> Tensor:
    particles = len(log_w)
    if particles < 2:
        return torch.full_like(log_w[0], math.nan)
    return (particles * log_w.softmax(0)).std(0) / math.sqrt(particles)


def _checked(log_w: Tensor) -> Tensor:
    if log_w.ndim < 1 or len(log_w) < 1:
        raise ValueError(
            f"log-weights have shape [K particles, N data] with K >= 1; got {tuple(log_w.shape)}"
        )
    return log_w
