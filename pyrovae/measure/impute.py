r"""Impute missing entries by self-normalized importance sampling from the posterior of z.

With weights $\bar w_k = w_k / \sum_j w_j$, $w_k = p(x_{obs}, z_k) / q(z_k | x_{obs})$,

    E[x_mis | x_obs] = sum_k wbar_k E[x_mis | z_k]

approximately. A draw is x_mis ~ p(. | z_k) at a particle k chosen with probability wbar_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pyrovae.measure.most_probable import most_probable
from pyrovae.nets.inputs import check_mask
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import effective_sample_size
from pyrovae.weights.filtering import Observations
from pyrovae.weights.given import Given
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.target import Resolved, as_tensors

__all__ = ["Imputation", "impute"]


@dataclass(frozen=True)
class Imputation:
    """Data with imputed missing entries, and the accuracy of the imputation.

    Attributes:
        x: [N, D], the posterior mean of each missing entry, NaN if the likelihood has no mean;
            observed entries are unchanged.
        standard_error: [N, D], the standard error of x over particles, 0 for observed entries. It
            is reliable only if the effective sample size is large.
        effective_sample_size: [N], of the K weights of each datum. If it is near 1, a single
            particle dominates.
        draws: [M, N, D], draws of all missing entries jointly from p(x_mis | x_obs); observed
            entries are unchanged.
        modes: [N, D], the most probable value of each missing entry that has finitely many (a
            class, a level, 0 or 1), the mean of any other; observed entries are unchanged. None
            unless asked for.
    """

    x: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    draws: Tensor
    modes: Tensor | None = None


def impute(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    draws: int = 0,
    modes: bool = False,
) -> Imputation:
    r"""Impute the missing entries of x by self-normalized importance sampling.

    $$ E[x_{mis} | x_{obs}] \approx \sum_k \bar w_k E[x_{mis} | z_k], \qquad
       \bar w_k \propto p(x_{obs}, z_k) / q(z_k | x_{obs}) $$

    The mean minimizes the squared error but understates the variance. For a later analysis of the
    data, use several `draws` (multiple imputation). For columns of classes, whose mean is not
    meaningful, ask for `modes`: the c with the largest $\sum_k \bar w_k p(x_i = c | z_k)$. The
    draws are exact as K grows; choose K well above M, so that few particles are used twice.

    Args:
        target: a VAE, or a pair (model, guide), that takes the mask as its last context (see
            `likelihoods.Masked` and `nets.HideMissing`).
        x: data [N, D]. The values of missing entries are ignored and replaced by 0.
        *context: the other arguments of the programs; the last is the mask, boolean [N, D], True
            for observed entries.
        particles: K, the number of particles. The means at all K particles of a datum are in
            memory at once.
        draws: M, the number of draws.
        modes: whether to find the most probable values, at the cost of one pass over the
            particles for each value that an entry can have.

    Raises:
        ValueError: if the mask is not boolean or does not have the shape of x, if observed entries
            are not finite or are impossible under every particle, if `particles` is below 1 or
            `draws` below 0, if the model has no site "x", or if its steps depend on each other
            given z, as those of `likelihoods.LinearStates` do.

    References:
        Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete
        Data Sets.
        Rubin, 1987. Multiple Imputation for Nonresponse in Surveys.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, HideMissing
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Masked(pv.likelihoods.Normal(MLP(2, 16, 3))),
        ...     guide=pv.guides.MeanFieldNormal(HideMissing(MLP(3, 16, 2 * 2))),
        ... )
        >>> x = torch.tensor([[1.0, float("nan"), 0.5]])
        >>> filled = pv.impute(vae, x, ~x.isnan(), particles=1000, draws=5)
        >>> filled.x[0, [0, 2]], filled.draws.shape
        (tensor([1.0000, 0.5000]), torch.Size([5, 1, 3]))
    """
    x, *context = as_tensors(target, x, *context)  # type: ignore[assignment]
    mask: Any = context[-1] if context else None
    _check_request(x, mask, particles, draws)
    resolved = Resolved.of(target)
    given = resolved.given(torch.where(mask, x, 0.0), *context)
    with torch.no_grad(), resolved.evaluating():
        parts = given.passes(particles)
        pieces = [_impute(part, particles, draws, modes=modes) for part in parts]
    return Imputation(
        x=torch.cat([piece.x for piece in pieces]),
        standard_error=torch.cat([piece.standard_error for piece in pieces]),
        effective_sample_size=torch.cat([piece.effective_sample_size for piece in pieces]),
        draws=torch.cat([piece.draws for piece in pieces], dim=1),
        modes=torch.cat([cast(Tensor, piece.modes) for piece in pieces]) if modes else None,
    )


def _check_request(x: Tensor, mask: Any, particles: int, draws: int) -> None:
    check_mask(mask, tuple(x.shape), "impute")
    if particles < 1 or draws < 0:
        raise ValueError(
            "impute needs particles >= 1 and draws >= 0; got "
            f"particles={particles} and draws={draws}"
        )


def _impute(given: Given, particles: int, draws: int, *, modes: bool) -> Imputation:
    x, mask = given.x, given.context[-1]
    pair = given.trace(particles)
    # [C, K, N]: the C values of the enumerated classes have an axis of their own.
    log_w = pair.layout.alternatives(pair.log_joint)
    _check_possible(log_w)
    fn = _observation(pair.model).expand(pair.log_joint.shape)
    weights = log_w.flatten(0, 1).softmax(0).view_as(log_w)
    mean, error = _average(fn.mean.reshape(*weights.shape, *x.shape[1:]), weights)
    return Imputation(
        x=torch.where(mask, x, mean),
        standard_error=torch.where(mask, 0.0, error),
        effective_sample_size=effective_sample_size(log_w.logsumexp(0)),
        draws=torch.where(mask, x, _draws(fn, weights.flatten(0, 1), (draws, *x.shape))),
        modes=torch.where(mask, x, most_probable(fn, weights, mean)) if modes else None,
    )


def _check_possible(log_w: Tensor) -> None:
    impossible = (log_w.flatten(0, -2).amax(0) == -torch.inf).nonzero().flatten()
    if len(impossible):
        raise ValueError(
            f"all weights of {len(impossible)} data are zero, the first at row "
            f"{int(impossible[0])}: their observed entries are impossible under the model; check "
            "the data and the mask"
        )


def _observation(model_trace: Any) -> Any:
    if "x" not in model_trace.nodes:
        raise ValueError(
            f"impute needs a site named 'x'; the model has the sites "
            f"{[name for name, _ in sample_sites(model_trace)]}: rename the observed site"
        )
    fn = model_trace.nodes["x"]["fn"]
    if isinstance(fn, Observations) and fn.start:  # what is believed of the steps before
        raise ValueError(
            f"impute takes entries of x that are independent given z, and those of a "
            f"{type(fn).__name__} are not: pyrovae.forecast draws the steps ahead"
        )
    return fn


def _average(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the weighted mean of values [C, K, N, ...] and its delta-method standard error.

    $$ \sqrt{\tfrac{K}{K-1} \sum_k \left[\sum_c \bar w_{ck} (v_{ck} - \bar v)\right]^2} $$
    """
    weights = weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))
    mean = (weights * values).sum((0, 1))
    spread = (weights * (values - mean)).sum(0).square().sum(0)
    particles = values.shape[1]
    bias = particles / (particles - 1) if particles > 1 else math.nan
    return mean, (bias * spread).sqrt()


def _draws(fn: Any, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw x, [M, N, D], from p(x | z) at particles resampled by their weights [P, N]."""
    drawn = torch.empty(shape, dtype=weights.dtype, device=weights.device)
    if len(drawn) == 0:
        return drawn
    chosen = torch.multinomial(weights.T, len(drawn), replacement=True).T
    turn = _turns(chosen)
    # Each reuse of a particle has a new draw of x.
    for now in range(int(turn.max()) + 1):
        values = fn.sample().reshape(*weights.shape, *shape[2:])
        draw, row = (turn == now).nonzero(as_tuple=True)
        drawn[draw, row] = values[chosen[draw, row], row]
    return drawn


def _turns(chosen: Tensor) -> Tensor:
    """Count the earlier occurrences of each entry of [M, N] in its column."""
    ordered, order = chosen.sort(dim=0, stable=True)
    columns = ordered.T.contiguous()
    first = torch.searchsorted(columns, columns).T
    turn = torch.arange(len(chosen), device=chosen.device)[:, None] - first
    return torch.empty_like(turn).scatter_(0, order, turn)
