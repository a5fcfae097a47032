r"""Fill in missing entries by importance sampling from the posterior of the latents.

The particles that bound log p(x_obs) also average over p(x_mis | x_obs): with the weights
$\bar w_k = w_k / \sum_j w_j$, $w_k = p(x_{obs}, z_k) / q(z_k | x_{obs})$,

    E[x_mis | x_obs] = sum_k wbar_k E[x_mis | z_k],

and a draw is x_mis ~ p(. | z_k) at a particle k chosen with probability wbar_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.nets.inputs import check_mask
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import effective_sample_size
from pyrovae.weights.given import Given
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.target import Resolved


@dataclass(frozen=True)
class Imputation:
    """Data with their missing entries filled in, and how far the filling is to be trusted.

    Attributes:
        x: [N, D], the posterior mean of each missing entry (NaN where the likelihood has none);
            observed entries as they were.
        standard_error: [N, D], what the K particles leave on x; 0 where it was observed. It is
            itself an estimate, honest while the effective sample size is large.
        effective_sample_size: [N], of the K weights of each datum: near 1, one particle decides.
        draws: [M, N, D], the missing entries drawn together from p(x_mis | x_obs).
    """

    x: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    draws: Tensor


def impute(
    target: Target, x: Tensor, *context: ContextValue, particles: int, draws: int = 0
) -> Imputation:
    r"""Fill in the missing entries of x by self-normalized importance sampling.

    The mean minimizes the squared error but understates the spread: for what a later analysis
    infers from the data, take `draws` (multiple imputation). They also serve columns of classes,
    whose mean means little: `draws.mode(0).values` is the most frequent class. Draws are exact as
    K grows; K well above M keeps particles from serving twice.

    Args:
        target: a VAE, or a pair (model, guide), that takes the mask as its last context (see
            `likelihoods.Masked` and `nets.HideMissing`).
        x: data [N, D]. What stands at a missing entry is not read; the programs meet a 0.
        *context: what the programs take beside x; the last is the mask, boolean [N, D], True where
            x is observed.
        particles: K. The means at all K particles of a datum are held at once.
        draws: M.

    Raises:
        ValueError: if the mask is not boolean or not of the shape of x, the observed entries of a
            datum are not finite or impossible under every particle, there is less than one
            particle, or the model has no site "x".

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
    mask: Any = context[-1] if context else None
    _check_request(x, mask, particles, draws)
    resolved = Resolved.of(target)
    given = resolved.given(torch.where(mask, x, 0.0), *context)
    with torch.no_grad(), resolved.evaluating():
        pieces = [_impute(part, particles, draws) for part in given.passes(particles)]
    return Imputation(
        x=torch.cat([piece.x for piece in pieces]),
        standard_error=torch.cat([piece.standard_error for piece in pieces]),
        effective_sample_size=torch.cat([piece.effective_sample_size for piece in pieces]),
        draws=torch.cat([piece.draws for piece in pieces], dim=1),
    )


def _check_request(x: Tensor, mask: Any, particles: int, draws: int) -> None:
    check_mask(mask, tuple(x.shape), "impute")
    if particles < 1 or draws < 0:
        raise ValueError(
            "impute takes one particle or more, and no less than 0 draws; got "
            f"particles={particles} and draws={draws}"
        )


def _impute(given: Given, particles: int, draws: int) -> Imputation:
    x, mask = given.x, given.context[-1]
    pair = given.trace(particles)
    # Each value of a class that is summed out stands beside the particles.
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
    )


def _check_possible(log_w: Tensor) -> None:
    impossible = (log_w.flatten(0, -2).amax(0) == -torch.inf).nonzero().flatten()
    if len(impossible):
        raise ValueError(
            f"every weight of {len(impossible)} data is zero, the first that of row "
            f"{int(impossible[0])}: their observed entries are impossible under the model"
        )


def _observation(model_trace: Any) -> Any:
    if "x" not in model_trace.nodes:
        raise ValueError(
            f"the model has the sites {[name for name, _ in sample_sites(model_trace)]} but none "
            "named 'x', whose missing entries are to be filled in"
        )
    return model_trace.nodes["x"]["fn"]


def _average(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Average values [C, K, N, ...], and return the delta method's error of the average.

    $$ \sqrt{\tfrac{K}{K-1} \sum_k \left[\sum_c \bar w_{ck} (v_{ck} - \bar v)\right]^2} $$
    """
    weights = weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))
    mean = (weights * values).sum((0, 1))
    spread = (weights * (values - mean)).sum(0).square().sum(0)
    particles = values.shape[1]
    bias = particles / (particles - 1) if particles > 1 else math.nan
    return mean, (bias * spread).sqrt()


def _draws(fn: Any, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw x, [M, N, D], at particles resampled by their weights [P, N]."""
    drawn = torch.empty(shape, dtype=weights.dtype, device=weights.device)
    if len(drawn) == 0:
        return drawn
    chosen = torch.multinomial(weights.T, len(drawn), replacement=True).T
    turn = _turns(chosen)
    # x is drawn afresh each time that a particle serves again.
    for now in range(int(turn.max()) + 1):
        values = fn.sample().reshape(*weights.shape, *shape[2:])
        draw, row = (turn == now).nonzero(as_tuple=True)
        drawn[draw, row] = values[chosen[draw, row], row]
    return drawn


def _turns(chosen: Tensor) -> Tensor:
    """Count how often each entry of [M, N] stood further up in its column."""
    ordered, order = chosen.sort(dim=0, stable=True)
    columns = ordered.T.contiguous()
    first = torch.searchsorted(columns, columns).T
    turn = torch.arange(len(chosen), device=chosen.device)[:, None] - first
    return torch.empty_like(turn).scatter_(0, order, turn)
