r"""Objectives that ask something of the aggregate posterior q(z), which no datum has alone.

    loss = sum_n scale_n [ -log p(x_n | z_n) + log q(z_n | x_n) - log p(z_n) ]  +  regularizer

The first part is Pyro's `Trace_ELBO` on one draw for each datum, every term under the scale of its
site. The regularizer is a sum over data too: a number for the minibatch is multiplied by the sum
of the scales of the observed site. `handlers.kl_weight` weighs what belongs to the rate, and
leaves penalties alone: `MMD` under `kl_weight(0.0)` is a Wasserstein auto-encoder.

The gradient goes through the draws, so every latent is continuous and reparameterized.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import Any, Literal, final

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae.objectives import aggregate
from pyrovae.objectives.paired_traces import Minibatch, draw_minibatch
from pyrovae.vae import announce

__all__ = ["DIP", "MMD", "FactorVAE", "Regularized", "TotalCorrelation"]


class Regularized(ELBO, abc.ABC):
    """What the objectives share: a loss from one draw of every latent for each datum."""

    @abc.abstractmethod
    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the loss, a scalar to differentiate, in nats over the whole data set."""

    @final
    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss as a scalar whose gradient is that of the objective."""
        return self.regularized(draw_minibatch(model, guide, *args, **kwargs))

    @final
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a number."""
        with torch.no_grad():
            return self._checked(self.differentiable_loss(model, guide, *args, **kwargs))

    @final
    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a number and leave the gradients in the parameters' `grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return self._checked(loss)

    def _checked(self, loss: Tensor) -> Any:
        value = torch_item(loss)
        warn_if_nan(value, "loss")
        return value

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("these objectives compare the data of one trace with each other")


@final
class TotalCorrelation(Regularized):
    r"""Weigh the three parts of the rate apart: the beta-TCVAE.

    $$ -\log p(x|z) + \alpha\, I_q(z; n) + \beta\, KL(q(z) \| \textstyle\prod_j q(z_j))
       + \gamma \textstyle\sum_j KL(q(z_j) \| p(z_j)) $$

    With all weights 1 it is the negative ELBO, draw by draw. The last term is what it says where
    the prior factorizes; see `aggregate.Decomposition`.

    Args:
        data_size: N, the data from which minibatches are drawn without replacement.
        beta: weight of the total correlation.
        alpha: weight of the index-code mutual information.
        gamma: weight of the dimension-wise KL.
        sampling: "stratified", an unbiased estimate of q(z), or "weighted", too low an estimate:
            the gradient is useful, the value is off by up to D log N.

    Raises:
        ValueError: for a negative weight; for a minibatch of one, or larger than data_size; for
            programs without exactly one latent site that the guide draws from a distribution
            factorized over dimensions, such as `dist.Normal(loc, scale).to_event(1)`.

    References:
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.

    Example:
        >>> import pyro, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> objective = TotalCorrelation(data_size=1000, beta=6.0)
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
            raise ValueError(f"sampling is one of {sorted(samplings)}; got {sampling!r}")
        if data_size < 2:
            raise ValueError(f"data_size is the number of data, two or more; got {data_size}")
        self.data_size, self._log_weights = data_size, samplings[sampling]
        self.alpha = _weight("alpha", alpha)
        self.beta = _weight("beta", beta)
        self.gamma = _weight("gamma", gamma)

    @torch.no_grad()
    def decomposition(
        self, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> aggregate.Decomposition:
        """Return the three parts of the rate at one draw for each datum, [N] each, unscaled."""
        return self._decompose(draw_minibatch(model, guide, *args, **kwargs))

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the negative ELBO with the parts of the rate weighed."""
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
        with log_q.device:  # a step on a GPU takes nothing from the CPU
            log_weights = self._log_weights(minibatch.size, self.data_size)
        return aggregate.decompose(log_q, latent.model.log_prob[0], log_weights)


@final
class DIP(Regularized):
    r"""Draw the covariance of the posterior toward the identity: DIP-VAE.

    $$ -ELBO + \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2 $$

    Args:
        off_diagonal: the weight of the entries off the diagonal.
        diagonal: the weight of those on it.
        covariance: "means" takes that of the posterior means over the data (DIP-VAE-I),
            "aggregate" that of q(z), which adds the mean posterior covariance (DIP-VAE-II).

    Raises:
        ValueError: for a negative weight; for a minibatch of one; for programs with several
            latent sites, or a posterior whose moments are not known.

    References:
        Kumar, Sattigeri, Balakrishnan, 2018. Variational Inference of Disentangled Latent
            Concepts from Unlabeled Observations.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> objective = DIP(off_diagonal=10.0, diagonal=100.0)
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
            raise ValueError(f'covariance is "means" or "aggregate"; got {covariance!r}')
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
    r"""Draw the aggregate posterior toward the prior: InfoVAE, Wasserstein auto-encoder.

    $$ -ELBO + \lambda\, MMD^2(q(z), p(z)) $$

    by the unbiased estimate on the draws of the minibatch and as many of the prior. Under
    `handlers.kl_weight(1 - alpha)` it is the InfoVAE, under `kl_weight(0.0)` the WAE-MMD, whose
    guide may be a `dist.Delta`. A prior whose draws are not reparameterized gets no gradient of
    the divergence.

    Args:
        kernel: a function of draws [M, D] and [N, D] that returns [M, N], such as
            `aggregate.GaussianKernel` and `aggregate.InverseMultiquadratic`.
        weight: lambda, of the squared discrepancy for each datum.

    Raises:
        ValueError: for a negative weight, a kernel that is not callable, a minibatch of one, or
            programs with several latent sites.

    References:
        Zhao, Song, Ermon, 2019. InfoVAE.
        Tolstikhin, Bousquet, Gelly, Schoelkopf, 2018. Wasserstein Auto-Encoders.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> objective = MMD(aggregate.InverseMultiquadratic(4.0), weight=10.0)
        >>> step = pv.Step(loss=objective, kl_weight=0.0)  # a Wasserstein auto-encoder
        >>> history = pv.fit(vae, torch.zeros(10, 64), epochs=1, step=step, callbacks=[])
        >>> history.column("loss")[0] > 0
        True
    """

    def __init__(self, kernel: aggregate.Kernel, weight: float) -> None:
        super().__init__()
        if not callable(kernel):
            raise ValueError(
                f"a kernel is a function of two tensors of draws; got {kernel!r}: give "
                "pyrovae.objectives.aggregate.GaussianKernel(width) or one of your own"
            )
        self.kernel, self.weight = kernel, _weight("weight", weight)

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the negative ELBO plus the weighted discrepancy."""
        latent = minibatch.latent
        distance = aggregate.mmd(latent.values(), latent.prior_values(), self.kernel)
        return minibatch.negative_elbo + self.weight * minibatch.data_scale.sum() * distance


@final
class FactorVAE(Regularized):
    r"""Penalize the total correlation that a discriminator estimates.

    $$ -ELBO + \gamma\, E_{q(z)}[d(z)], \qquad d(z) \approx \log q(z) - \log \textstyle\prod_j
       q(z_j) $$

    The discriminator d is trained in the same step, on its own loss: the cross-entropy of telling
    the draws of the minibatch from the same draws with each dimension shuffled. The value is the
    VAE's loss alone; the gradient of the VAE's parameters is that of this value, the
    discriminator's that of its cross-entropy, and neither reaches the other. Any SVI is told of
    the discriminator's parameters, so it trains both; `groups` gives the discriminator a learning
    rate and moments of its own. Without SVI, `objective(model, guide)(x).backward()` leaves both
    gradients, for two torch optimizers.

    Args:
        gamma: the weight of the total correlation.
        discriminator: maps draws [N, D] to one logit each, [N, 1]. Several latent sites are
            concatenated.

    Raises:
        ValueError: for a negative gamma, a discriminator that is no module, without parameters,
            or that returns another shape, and for a minibatch of one.

    References:
        Kim, Mnih, 2018. Disentangling by Factorising.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> objective = FactorVAE(10.0, pv.nets.MLP(2, 100, 100, 1, activation=nn.LeakyReLU))
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
                f"a discriminator is an nn.Module; got {type(discriminator).__name__}: give "
                "pyrovae.nets.MLP(latents, 100, 1) or one of your own"
            )
        self.gamma, self.discriminator = _weight("gamma", gamma), discriminator

    def groups(self, parameters: Iterable[Tensor], **options: Any) -> list[dict[str, Any]]:
        """Split parameters into two groups for a torch optimizer.

        Args:
            parameters: of the VAE and of the discriminator, in any order.
            **options: of the discriminator's group, such as `lr` and `betas`.
        """
        own = {id(parameter) for parameter in self.discriminator.parameters()}
        parameters = list(parameters)
        return [
            {"params": [p for p in parameters if id(p) not in own]},
            {"params": [p for p in parameters if id(p) in own], **options},
        ]

    def regularized(self, minibatch: Minibatch) -> Tensor:
        """Return the VAE's loss, with the gradient of the discriminator's loss added to it."""
        for name, parameter in self.discriminator.named_parameters():
            if parameter.requires_grad:
                announce(f"discriminator.{name}", parameter)
        z = minibatch.values()
        own = self.discriminator_loss(z.detach())
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        log_ratio = self._logits(functional_call(self.discriminator, fixed, (z,)), z)
        loss = minibatch.negative_elbo + self.gamma * (minibatch.data_scale * log_ratio).sum()
        return loss + (own - own.detach())

    def discriminator_loss(self, z: Tensor) -> Tensor:
        """Return the discriminator's cross-entropy on draws [N, D], in nats: log 2 at chance."""
        permuted = aggregate.permute_dimensions(z)
        return aggregate.discrimination_loss(
            self._logits(self.discriminator(z), z),
            self._logits(self.discriminator(permuted), permuted),
        )

    def _logits(self, logits: Tensor, z: Tensor) -> Tensor:
        if logits.shape not in ((len(z),), (len(z), 1)):
            raise ValueError(
                f"the discriminator returned {tuple(logits.shape)} for draws {tuple(z.shape)}; "
                f"expected one logit each, {(len(z), 1)}: end it in a layer of width 1"
            )
        return logits.reshape(len(z))


def _weight(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a weight, 0 or more, and finite; got {value}")
    return value
