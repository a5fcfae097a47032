r"""Estimates of the aggregate posterior from a minibatch.

    q(z) = 1/N sum_n q(z | x_n),        z_m ~ q(z | x_m)

Its log-density at the samples is estimated from the matrix log q(z_m | x_n). Its distance to the
prior, its covariance and the dependence of its dimensions are estimated from samples and moments.
The functions take tensors, not programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Decomposition",
    "GaussianKernel",
    "InverseMultiquadratic",
    "Kernel",
    "covariance",
    "decompose",
    "discrimination_loss",
    "log_aggregate",
    "mmd",
    "moment_penalty",
    "permute_dimensions",
    "squared_distances",
    "stratified",
    "weighted",
]

Kernel = Callable[[Tensor, Tensor], Tensor]
"""A function of samples [M, D] and [N, D] that returns k(x_m, y_n), [M, N]."""


@dataclass(frozen=True)
class Decomposition:
    r"""The decomposition of the KL term into three parts, [M] each, in nats.

    $$ KL(q(z|x) \| p(z)) = \underbrace{I_q(z; n)} + \underbrace{KL(q(z) \| \textstyle\prod_j
       q(z_j))} + \underbrace{\textstyle\sum_j KL(q(z_j) \| p(z_j))} $$

    on average over the data. The parts of each sample sum to log q(z_m | x_m) - log p(z_m)
    exactly, for any estimate of q(z).

    Attributes:
        information: log q(z | x) - log q(z), the index-code mutual information on average.
        total_correlation: log q(z) - log prod_j q(z_j).
        dimension_wise_kl: log prod_j q(z_j) - log p(z), the sum of the dimensions' KL divergences
            if the prior factorizes.

    References:
        Hoffman, Johnson, 2016. ELBO Surgery.
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.
    """

    information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor

    @property
    def rate(self) -> Tensor:
        """The sum of the three parts, log q(z | x) - log p(z)."""
        return self.information + self.total_correlation + self.dimension_wise_kl


def weighted(batch: int, size: int) -> Tensor:
    r"""Return the log-weights of minibatch-weighted sampling, $-\log N M$ for each pair, [M, M].

    The estimate of q(z) is biased low, also for the full data (it is $q(z) / N$ at M = N). Its
    gradients are useful, its values are not. `stratified` is unbiased.

    Args:
        batch: the number M of data in the minibatch.
        size: the number N of data.

    Raises:
        ValueError: if the batch has fewer than two or more than N data.

    References:
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.

    Example:
        >>> from pyrovae.objectives.aggregate import weighted
        >>> weighted(2, 10).exp().float()
        tensor([[0.0500, 0.0500],
                [0.0500, 0.0500]])
    """
    _check_sizes(batch, size)
    return torch.full((batch, batch), -math.log(batch * size), dtype=torch.float64)


def stratified(batch: int, size: int) -> Tensor:
    r"""Return the log-weights of minibatch-stratified sampling, [M samples, M data].

    The datum of a sample has weight $\frac1N$, every other datum of the minibatch
    $\frac{N-1}{N (M-1)}$. For minibatches drawn without replacement, the estimate of q(z) is
    unbiased; with M = N it is exact. (The paper gives one of the other data a different weight;
    these weights are the average over the choice of that datum, so the variance is no larger.)

    Args:
        batch: the number M of data in the minibatch.
        size: the number N of data.

    Raises:
        ValueError: if the batch has fewer than two or more than N data.

    References:
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs,
            appendix C.2.

    Example:
        >>> from pyrovae.objectives.aggregate import stratified
        >>> stratified(3, 10).exp().float()
        tensor([[0.1000, 0.4500, 0.4500],
                [0.4500, 0.1000, 0.4500],
                [0.4500, 0.4500, 0.1000]])
    """
    _check_sizes(batch, size)
    own = torch.eye(batch, dtype=torch.float64)
    return (own / size + (1 - own) * (size - 1) / (size * (batch - 1))).log()


def log_aggregate(log_q: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Estimate $\log q(z_m)$ and $\log \prod_j q(z_{mj})$ from a minibatch, [M] each.

    $$ \log \sum_n w_{mn} \prod_j q(z_{mj} | x_n), \qquad
       \sum_j \log \sum_n w_{mn} q(z_{mj} | x_n) $$

    Args:
        log_q: log q(z_mj | x_n), [M samples, M data, D dimensions].
        log_weights: [M, M], from `stratified` or `weighted`.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import log_aggregate, stratified
        >>> log_q = torch.tensor([0.5, 0.25]).log().expand(2, 2, 2)  # at any datum the same
        >>> [density.exp() for density in log_aggregate(log_q, stratified(2, 2))]
        [tensor([0.1250, 0.1250]), tensor([0.1250, 0.1250])]
    """
    log_weights = log_weights.to(log_q)
    joint = (log_weights + log_q.sum(-1)).logsumexp(1)
    marginals = (log_weights.unsqueeze(-1) + log_q).logsumexp(1)
    return joint, marginals.sum(-1)


def decompose(log_q: Tensor, log_prior: Tensor, log_weights: Tensor) -> Decomposition:
    """Decompose the KL term into information, total correlation and dimension-wise KL.

    Args:
        log_q: log q(z_mj | x_n), [M samples, M data, D dimensions].
        log_prior: log p(z_m), [M].
        log_weights: [M, M], from `stratified` or `weighted`.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import decompose, stratified
        >>> draws, means = torch.zeros(4, 1, 3), torch.arange(12.0).reshape(4, 3)
        >>> log_q = torch.distributions.Normal(means, 1.0).log_prob(draws)
        >>> parts = decompose(log_q, torch.zeros(4), stratified(4, 100))
        >>> torch.allclose(parts.rate, log_q.sum(-1).diagonal())
        True
    """
    log_posterior = _diagonal(log_q.sum(-1))
    joint, product = log_aggregate(log_q, log_weights)
    return Decomposition(log_posterior - joint, joint - product, product - log_prior)


@dataclass(frozen=True)
class GaussianKernel:
    r"""The kernel $k(x, y) = \exp(-|x - y|^2 / 2 w^2)$.

    Args:
        width: w, positive. For D dimensions of unit variance, distances are about sqrt(2 D).

    Raises:
        ValueError: if the width is not positive and finite.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import GaussianKernel
        >>> GaussianKernel(1.0)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.3679]])
    """

    width: float

    def __post_init__(self) -> None:  # noqa: D105
        _check_positive("a Gaussian kernel's width", self.width)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x_m, y_n), [M, N], of samples [M, D] and [N, D]."""
        return (-0.5 * squared_distances(x, y) / self.width**2).exp()


@dataclass(frozen=True)
class InverseMultiquadratic:
    r"""The kernel $k(x, y) = C / (C + |x - y|^2)$, which has heavy tails.

    Args:
        scale: C, positive; 2 D s^2 for a prior with D dimensions of variance s^2.

    Raises:
        ValueError: if the scale is not positive and finite.

    References:
        Tolstikhin, Bousquet, Gelly, Schoelkopf, 2018. Wasserstein Auto-Encoders.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import InverseMultiquadratic
        >>> InverseMultiquadratic(4.0)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.6667]])
    """

    scale: float

    def __post_init__(self) -> None:  # noqa: D105
        _check_positive("an inverse multiquadratic kernel's scale", self.scale)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x_m, y_n), [M, N], of samples [M, D] and [N, D]."""
        return self.scale / (self.scale + squared_distances(x, y))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_m - y_n|^2, [M, N], of samples [M, D] and [N, D], differentiable at 0."""
    return (x.unsqueeze(1) - y).square().sum(-1)


def mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    r"""Return the unbiased estimate of the squared maximum mean discrepancy.

    $$ \frac{\sum_{i \ne j} k(x_i, x_j)}{M (M - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{N (N - 1)}
       - \frac{2 \sum_{ij} k(x_i, y_j)}{M N} $$

    The estimate can be negative if the distributions are close.

    Args:
        x: independent samples [M, D].
        y: independent samples [N, D].
        kernel: a positive definite kernel.

    Raises:
        ValueError: if there are fewer than two samples of either.

    References:
        Gretton et al., 2012. A Kernel Two-Sample Test, lemma 6.
        Zhao, Song, Ermon, 2019. InfoVAE.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import InverseMultiquadratic, mmd
        >>> mmd(torch.zeros(2, 1), torch.ones(2, 1), InverseMultiquadratic(1.0))
        tensor(1.)
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"the discrepancy compares pairs of samples; got {len(x)} and {len(y)} samples: give "
            "at least two of each"
        )
    return _mean_of_pairs(kernel(x, x)) + _mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean()


def covariance(means: Tensor) -> Tensor:
    r"""Return the unbiased covariance of the posterior means over data, $Cov_x[E_q z]$, [D, D].

    Args:
        means: E[z | x_n] under the posterior, [N, D].

    Raises:
        ValueError: if there are fewer than two rows.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import covariance
        >>> covariance(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        tensor([[2., 0.],
                [0., 0.]])
    """
    if len(means) < 2:
        raise ValueError(f"a covariance needs at least two data; got {len(means)}")
    centered = means - means.mean(0)
    return centered.mT @ centered / (len(means) - 1)


def moment_penalty(covariance: Tensor, *, off_diagonal: float, diagonal: float) -> Tensor:
    r"""Return the DIP-VAE penalty on the distance of a covariance from the identity.

    $$ \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2 $$

    With the covariance of the posterior means it is DIP-VAE-I, with that of q(z) DIP-VAE-II.

    References:
        Kumar, Sattigeri, Balakrishnan, 2018. Variational Inference of Disentangled Latent
            Concepts from Unlabeled Observations.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import moment_penalty
        >>> moment_penalty(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), off_diagonal=10.0, diagonal=1.0)
        tensor(24.)
    """
    variances = _diagonal(covariance)
    off = covariance.square().sum() - variances.square().sum()
    return off_diagonal * off + diagonal * (variances - 1).square().sum()


def permute_dimensions(z: Tensor) -> Tensor:
    r"""Permute each dimension of samples [M, D] independently, to sample $\prod_j q(z_j)$.

    References:
        Kim, Mnih, 2018. Disentangling by Factorizing, algorithm 1.

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import permute_dimensions
        >>> z = torch.arange(6.0).reshape(3, 2)
        >>> permute_dimensions(z).sort(0).values.equal(z)
        True
    """
    return z.gather(0, torch.rand_like(z).argsort(0))


def discrimination_loss(of_draws: Tensor, of_permuted: Tensor) -> Tensor:
    r"""Return the cross-entropy of discriminating q(z) from $\prod_j q(z_j)$, in nats.

    $$ -\tfrac12 E_{q(z)} \log \sigma(d(z)) - \tfrac12 E_{\prod_j q(z_j)} \log \sigma(-d(z)) $$

    Its minimum over all functions d is at $d(z) = \log q(z) - \log \prod_j q(z_j)$.

    Args:
        of_draws: d at samples of q(z), [M].
        of_permuted: d at permuted samples, [M].

    Example:
        >>> import torch
        >>> from pyrovae.objectives.aggregate import discrimination_loss
        >>> discrimination_loss(torch.zeros(3), torch.zeros(3))
        tensor(0.6931)
    """
    softplus = torch.nn.functional.softplus
    return 0.5 * (softplus(-of_draws).mean() + softplus(of_permuted).mean())


def _mean_of_pairs(gram: Tensor) -> Tensor:
    """Average a Gram matrix over pairs of different samples."""
    return (gram.sum() - _diagonal(gram).sum()) / (len(gram) * (len(gram) - 1))


def _diagonal(square: Tensor) -> Tensor:
    """Return the diagonal; `Tensor.diagonal` makes Inductor warn when it compiles."""
    rows = torch.arange(len(square), device=square.device)
    return square[rows, rows]


def _check_sizes(batch: int, size: int) -> None:
    if batch < 2:
        raise ValueError(
            f"the aggregate posterior needs a minibatch of at least two data; got {batch}: choose "
            "a batch size that leaves no batch of one row"
        )
    if size < batch:
        raise ValueError(
            f"a minibatch is drawn from the data without replacement; got a batch of {batch} and "
            f"data_size={size}: give the size of the whole data set"
        )


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be positive and finite; got {value}")
