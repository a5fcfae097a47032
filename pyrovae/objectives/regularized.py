r"""Objectives with a regularizer on the aggregate posterior q(z).

    loss = sum_n scale_n [ -log p(x_n | z_n) + log q(z_n | x_n) - log p(z_n) ]  +  regularizer

The first term is the loss of Pyro's `Trace_ELBO` with one sample per datum; each term has the
scale of its site. The regularizer is a sum over data too: a value of the whole minibatch is
multiplied by the sum of the scales of the observed site. `handlers.kl_weight` scales the KL term
and not the regularizer: `MMD` with `kl_weight(0.0)` is a Wasserstein auto-encoder.

The gradient flows through the samples, so every latent must be continuous and reparameterized.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae.objectives import aggregate
from pyrovae.objectives.base import Loss
from pyrovae.objectives.gradients import gradient_only
from pyrovae.objectives.paired_traces import Minibatch, draw_minibatch
from pyrovae.types import Program
from pyrovae.vae import announce

__all__ = ["DIP", "MMD", "FactorVAE", "Regularized", "TotalCorrelation"]


class Regularized(Loss):
    """A loss that is computed from one sample of every latent for each datum."""

    def __str__(self) -> str:  # noqa: D105
        return f"the ELBO with the penalty of {type(self).__name__}"

    @abc.abstractmethod
    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the loss as a differentiable scalar, in nats, scaled to the whole data set."""

    @final
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss as a scalar tensor with a gradient."""
        return self.regularized(draw_minibatch(model, guide, *args, **kwargs))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("these objectives compare the data of one trace with each other")


@final
class TotalCorrelation(Regularized):
    r"""The beta-TCVAE objective: separate weights for three parts of the KL term.

    $$ -\log p(x|z) + \alpha\, I_q(z; n) + \beta\, KL(q(z) \| \textstyle\prod_j q(z_j))
       + \gamma \textstyle\sum_j KL(q(z_j) \| p(z_j)) $$

    With all weights 1, it is the negative ELBO at the same samples. The last term is a sum of KL
    divergences if the prior factorizes; see `aggregate.Decomposition`.

    Args:
        data_size: the number N of data from which minibatches are drawn without replacement.
        beta: the weight of the total correlation.
        alpha: the weight of the index-code mutual information.
        gamma: the weight of the dimension-wise KL.
        sampling: "stratified" for an unbiased estimate of q(z), or "weighted" for an estimate
            that is biased low: its gradient is useful, its value is off by up to D log N.

    Raises:
        ValueError: if a weight is negative, the minibatch has one row or more than data_size
            rows, or the programs do not have exactly one latent site, or its posterior is not a
            product of univariate distributions such as `dist.Normal(loc, scale).to_event(1)`.

    References:
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> objective = pv.objectives.TotalCorrelation(data_size=1000, beta=6.0)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
        >>> svi.step(torch.zeros(5, 64)) > 0
        True
        >>> objective.decomposition(vae.model, vae.guide, torch.zeros(5, 64)).rate.shape
        torch.Size([5])
    """

    def __init__(
        self,
        data_size: int,
        *,
        beta: float,
        alpha: float = 1.0,
        gamma: float = 1.0,
        sampling: Literal["stratified", "weighted"] = "stratified",
    ) -> None:
        super().__init__()
        samplings = {"stratified": aggregate.stratified, "weighted": aggregate.weighted}
        if sampling not in samplings:
            raise ValueError(f"sampling must be one of {sorted(samplings)}; got {sampling!r}")
        if data_size < 2:
            raise ValueError(
                f"data_size must be at least two, the number of data; got {data_size}"
            )
        self.data_size, self._log_weights = data_size, samplings[sampling]
        self.alpha = _weight("alpha", alpha)
        self.beta = _weight("beta", beta)
        self.gamma = _weight("gamma", gamma)

    @torch.no_grad()
    def decomposition(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> aggregate.Decomposition:
        """Return the unscaled parts of the KL term at one sample per datum, [N] each, in nats."""
        return self._decompose(draw_minibatch(model, guide, *args, **kwargs))

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the negative ELBO with weighted parts of the KL term."""
        parts = self._decompose(minibatch)
        excess = (
            (self.alpha - 1) * parts.information
            + (self.beta - 1) * parts.total_correlation
            + (self.gamma - 1) * parts.dimension_wise_kl
        )
        return minibatch.negative_elbo + (minibatch.latent.guide.scale * excess).sum()

    def _decompose(self, minibatch: Minibatch) -> aggregate.Decomposition:
        latent = minibatch.latent
        log_q = latent.pairwise_log_q()
        with log_q.device:  # a captured step on a GPU must not copy from the CPU
            log_weights = self._log_weights(minibatch.size, self.data_size)
        return aggregate.decompose(log_q, latent.model.log_prob[0], log_weights)


@final
class DIP(Regularized):
    r"""The DIP-VAE objective: penalize the distance of a covariance C from the identity.

    $$ -ELBO + \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2 $$

    Args:
        off_diagonal: the weight of the off-diagonal entries.
        diagonal: the weight of the diagonal entries.
        covariance: "means" for the covariance of the posterior means over the data (DIP-VAE-I),
            "aggregate" for that of q(z), which adds the mean posterior covariance (DIP-VAE-II).

    Raises:
        ValueError: if a weight is negative, the minibatch has one row, the programs have several
            latent sites, or the moments of the posterior are unknown.

    References:
        Kumar, Sattigeri, Balakrishnan, 2018. Variational Inference of Disentangled Latent
            Concepts from Unlabeled Observations.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> objective = pv.objectives.DIP(off_diagonal=10.0, diagonal=100.0)
        >>> objective(vae.model, vae.guide)(torch.zeros(5, 64)) > 200
        tensor(True)
    """

    def __init__(
        self,
        off_diagonal: float,
        diagonal: float,
        *,
        covariance: Literal["means", "aggregate"] = "means",
    ) -> None:
        super().__init__()
        if covariance not in ("means", "aggregate"):
            raise ValueError(f'covariance must be "means" or "aggregate"; got {covariance!r}')
        self.off_diagonal = _weight("off_diagonal", off_diagonal)
        self.diagonal = _weight("diagonal", diagonal)
        self.covariance = covariance

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the negative ELBO plus the penalty."""
        covariance = aggregate.covariance(minibatch.latent.means())
        if self.covariance == "aggregate":
            covariance = covariance + minibatch.latent.covariances().mean(0)
        penalty = aggregate.moment_penalty(
            covariance, off_diagonal=self.off_diagonal, diagonal=self.diagonal
        )
        return minibatch.negative_elbo + minibatch.data_scale.sum() * penalty


@final
class MMD(Regularized):
    r"""Penalize the maximum mean discrepancy of aggregate posterior and prior.

    $$ -ELBO + \lambda\, MMD^2(q(z), p(z)) $$

    The discrepancy is the unbiased estimate from the samples of the minibatch and as many samples
    of the prior. With `handlers.kl_weight(1 - alpha)` this is the InfoVAE, with `kl_weight(0.0)`
    the WAE-MMD, whose guide may be a `guides.Delta`. A prior without reparameterized samples gets
    no gradient from the discrepancy.

    Args:
        kernel: a function of samples [M, D] and [N, D] that returns [M, N], such as
            `aggregate.GaussianKernel` or `aggregate.InverseMultiquadratic`.
        weight: lambda, the weight of the squared discrepancy per datum.

    Raises:
        ValueError: if the weight is negative, the kernel is not callable, the minibatch has one
            row, or the programs have several latent sites.

    References:
        Zhao, Song, Ermon, 2019. InfoVAE.
        Tolstikhin, Bousquet, Gelly, Schoelkopf, 2018. Wasserstein Auto-Encoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> kernel = pv.objectives.aggregate.InverseMultiquadratic(4.0)
        >>> objective = pv.objectives.MMD(kernel, weight=10.0)
        >>> step = pv.Step(loss=objective, kl_weight=0.0)  # a Wasserstein auto-encoder
        >>> history = pv.fit(vae, torch.zeros(10, 64), epochs=1, step=step, callbacks=[])
        >>> history.column("loss")[0] > 0
        True
    """

    def __init__(self, kernel: aggregate.Kernel, weight: float) -> None:
        super().__init__()
        if not callable(kernel):
            raise ValueError(
                f"a kernel must be a function of two tensors of samples; got {kernel!r}: use "
                "pyrovae.objectives.aggregate.GaussianKernel(width) or your own function"
            )
        self.kernel, self.weight = kernel, _weight("weight", weight)

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the negative ELBO plus the weighted discrepancy."""
        latent = minibatch.latent
        distance = aggregate.mmd(latent.values(), latent.prior_values(), self.kernel)
        return minibatch.negative_elbo + self.weight * minibatch.data_scale.sum() * distance


@final
class FactorVAE(Regularized):
    r"""Penalize the total correlation, estimated by a discriminator.

    $$ -ELBO + \gamma\, E_{q(z)}[d(z)], \qquad d(z) \approx \log q(z) - \log \textstyle\prod_j
       q(z_j) $$

    The discriminator d is trained in the same step. Its loss is the cross-entropy of
    discriminating the samples of the minibatch from the same samples with each dimension
    permuted. The value is the VAE's loss only. The VAE's parameters get the gradient of this
    value, the discriminator's that of its cross-entropy. Any SVI trains both, because the
    discriminator's parameters are announced to it; `groups` gives the discriminator its own
    learning rate and moments. Without SVI, `objective(model, guide)(x).backward()` accumulates
    both gradients, for two torch optimizers.

    Args:
        gamma: the weight of the total correlation.
        discriminator: maps samples [N, D] to logits [N, 1]. Several latent sites are
            concatenated.

    Raises:
        ValueError: if gamma is negative, the discriminator is not a module or returns another
            shape, or the minibatch has one row.

    References:
        Kim, Mnih, 2018. Disentangling by Factorizing.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> net = pv.nets.MLP(2, 100, 100, 1, activation=torch.nn.LeakyReLU)
        >>> objective = pv.objectives.FactorVAE(10.0, net)
        >>> def adam(parameters):
        ...     groups = objective.groups(parameters, lr=1e-4, betas=(0.5, 0.9))
        ...     return torch.optim.Adam(groups, lr=1e-3)
        >>> step = pv.Step(loss=objective, optim=pv.OneOptimizer(adam))
        >>> history = pv.fit(vae, torch.zeros(10, 64), epochs=1, step=step, callbacks=[])
        >>> history.column("loss")[0] > 0
        True
    """

    def __init__(self, gamma: float, discriminator: nn.Module) -> None:
        super().__init__()
        if not isinstance(discriminator, nn.Module):
            raise ValueError(
                f"a discriminator must be an nn.Module; got {type(discriminator).__name__}: use "
                "pyrovae.nets.MLP(latents, 100, 1) or your own module"
            )
        self.gamma, self.discriminator = _weight("gamma", gamma), discriminator

    def groups(self, parameters: Iterable[Tensor], **options: Any) -> list[dict[str, Any]]:
        """Split parameters into the groups of VAE and discriminator for a torch optimizer.

        Args:
            parameters: the parameters of the VAE and of the discriminator, in any order.
            **options: the options of the discriminator's group, such as `lr` and `betas`.
        """
        own = {id(parameter) for parameter in self.discriminator.parameters()}
        parameters = list(parameters)
        return [
            {"params": [p for p in parameters if id(p) not in own]},
            {"params": [p for p in parameters if id(p) in own], **options},
        ]

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the VAE's loss, with the gradient of the discriminator's loss added."""
        for name, parameter in self.discriminator.named_parameters():
            if parameter.requires_grad:
                announce(f"discriminator.{name}", parameter)
        z = minibatch.values()
        own = self.discriminator_loss(z.detach())
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        log_ratio = self._logits(functional_call(self.discriminator, fixed, (z,)), z)
        loss = minibatch.negative_elbo + self.gamma * (minibatch.data_scale * log_ratio).sum()
        return loss + gradient_only(own)

    def discriminator_loss(self, z: Tensor) -> Tensor:
        """Return the discriminator's cross-entropy on samples [N, D], in nats; log 2 at chance."""
        permuted = aggregate.permute_dimensions(z)
        return aggregate.discrimination_loss(
            self._logits(self.discriminator(z), z),
            self._logits(self.discriminator(permuted), permuted),
        )

    def _logits(self, logits: Tensor, z: Tensor) -> Tensor:
        if logits.shape not in ((len(z),), (len(z), 1)):
            raise ValueError(
                f"the discriminator returned {tuple(logits.shape)} for samples {tuple(z.shape)}; "
                f"expected one logit per sample, {(len(z), 1)}: give it an output layer of width 1"
            )
        return logits.reshape(len(z))


def _weight(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite; got {value}")
    return value
