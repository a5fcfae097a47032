r"""The Kullback-Leibler divergence KL(q || p), in closed form or by Monte Carlo.

    KL(q || p) = E_q [log q(z) - log p(z)]

KL(q(z | x) || p(z)) is the rate of a VAE. All values are per datum and in nats.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch import distributions as td

from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate, mean_estimate
from pyrovae.weights.log_weights import log_weight_terms
from pyrovae.weights.pair import TracePair
from pyrovae.weights.rows import Folded
from pyrovae.weights.sites import innermost, same_mask, sample_sites, univariate_factors
from pyrovae.weights.target import programs_and_data

__all__ = [
    "analytic_kl",
    "closed_form_kl",
    "closed_form_rates",
    "diagonal_normal_kl",
    "dimension_rates",
    "latent_order",
    "monte_carlo_kl",
    "multivariate_normal_kl",
    "on_rows",
    "pair_kl",
    "pair_kl_by_dimension",
    "standard_normal_kl",
]


def multivariate_normal_kl(
    loc_q: Tensor, scale_tril_q: Tensor, loc_p: Tensor, scale_tril_p: Tensor
) -> Tensor:
    r"""Return the KL divergence of two multivariate normals from their Cholesky factors.

    $$ \tfrac12 \left[ \log \frac{|S_p|}{|S_q|} - D + \mathrm{tr}(S_p^{-1} S_q)
       + (m_p - m_q)^\top S_p^{-1} (m_p - m_q) \right],\qquad S = L L^\top $$

    Args:
        loc_q: mean of q, [..., D].
        scale_tril_q: lower Cholesky factor of q's covariance, [..., D, D].
        loc_p: mean of p, [..., D].
        scale_tril_p: lower Cholesky factor of p's covariance, [..., D, D].

    Returns:
        The divergences [...] in nats; leading axes broadcast.

    Example:
        >>> import torch
        >>> from pyrovae.weights.kl import multivariate_normal_kl
        >>> eye = torch.eye(2)
        >>> multivariate_normal_kl(torch.zeros(2), eye, torch.ones(2), eye)
        tensor(1.)
    """
    batch = torch.broadcast_shapes(
        loc_q.shape[:-1], loc_p.shape[:-1], scale_tril_q.shape[:-2], scale_tril_p.shape[:-2]
    )
    size = loc_q.shape[-1]
    factor = scale_tril_p.expand(*batch, size, size)
    columns = torch.cat([scale_tril_q.expand_as(factor), _column(loc_p - loc_q, batch)], dim=-1)
    whitened = torch.linalg.solve_triangular(factor, columns, upper=False)
    quadratic = whitened.square().sum((-1, -2))
    return 0.5 * (quadratic - size) + _log_det(scale_tril_p) - _log_det(scale_tril_q)


def diagonal_normal_kl(loc_q: Tensor, scale_q: Tensor, loc_p: Tensor, scale_p: Tensor) -> Tensor:
    r"""Return the KL divergence of two diagonal normals, summed over the last axis.

    $$ \tfrac12 \sum_i \left[ \frac{s_{q,i}^2 + (m_{q,i} - m_{p,i})^2}{s_{p,i}^2} - 1
       - \log \frac{s_{q,i}^2}{s_{p,i}^2} \right] $$

    Example:
        >>> import torch
        >>> from pyrovae.weights.kl import diagonal_normal_kl
        >>> one = torch.ones(2)
        >>> diagonal_normal_kl(0 * one, one, one, one)
        tensor(1.)
    """
    return standard_normal_kl((loc_q - loc_p) / scale_p, scale_q / scale_p)


def standard_normal_kl(loc: Tensor, scale: Tensor) -> Tensor:
    r"""Return KL(N(m, diag s^2) || N(0, I)) = $\tfrac12 \sum_i [s_i^2 + m_i^2 - 1 - \log s_i^2]$.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes, appendix B.

    Example:
        >>> import torch
        >>> from pyrovae.weights.kl import standard_normal_kl
        >>> standard_normal_kl(torch.ones(2), torch.ones(2))
        tensor(1.)
    """
    return (0.5 * (scale.square() + loc.square() - 1) - scale.log()).sum(-1)


def closed_form_kl(q: td.Distribution, p: td.Distribution) -> Tensor:
    """Return KL(q || p) in closed form.

    Besides the pairs that are registered with torch and Pyro, q and p may be any two normals:
    diagonal, low-rank or with full covariance.

    Raises:
        NotImplementedError: if no closed form is known for the two families.

    Example:
        >>> import torch.distributions as td
        >>> import torch
        >>> from pyrovae.weights.kl import closed_form_kl
        >>> q = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> closed_form_kl(q, td.Independent(td.Normal(torch.ones(2), 1.0), 1))
        tensor(1.)
    """
    if type(q) is type(p):
        return td.kl_divergence(q, p)
    end = _cholesky_normal(p)
    if end is not None and isinstance(q, td.LowRankMultivariateNormal):
        return _low_rank_kl(q, *end)
    start = None if end is None else _cholesky_normal(q)
    if start is None or end is None:
        return td.kl_divergence(q, p)
    return multivariate_normal_kl(*start, *end)


def analytic_kl(target: Target, x: Tensor, *context: ContextValue, particles: int = 1) -> Tensor:
    r"""Return the rate KL(q(z | x) || p(z)) as a sum of closed-form KLs over latent sites, [N].

    The KL of a site that depends on earlier sites is evaluated at the guide's draws and averaged
    over particles. It estimates $E_q KL(q(z_2 | z_1, x) \| p(z_2 | z_1))$. With one latent site
    the result is exact for any number of particles.

    Args:
        target: a VAE, or a pair (model, guide) of Pyro programs.
        x: data [N, ...].
        *context: further arguments of both programs.
        particles: the number of draws K to average over.

    Returns:
        The rates [N] in nats.

    Raises:
        ValueError: naming the site, if it has no closed form, is enumerated or auxiliary, or if
            model and guide sample their sites in different orders, where the sum of closed forms
            is not the divergence.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.analytic_kl(vae, torch.zeros(5, 64)).shape
        torch.Size([5])
    """
    return closed_form_rates(target, x, *context, particles=particles).mean(0)


def closed_form_rates(target: Target, x: Tensor, *context: ContextValue, particles: int) -> Tensor:
    """Return the sums of closed-form KLs at each particle, [K, N], as of `analytic_kl`."""
    (model, guide), x, context = programs_and_data(target, x, context)
    pair = TracePair.run(model, guide, x, *context, particles=particles)
    if particles > 1 and on_rows(pair):
        one = [
            closed_form_rates((model, guide), x, *context, particles=1) for _ in range(particles)
        ]
        return torch.cat(one)
    return pair_kl(pair)


def pair_kl(pair: TracePair) -> Tensor:
    """Return the sum of the closed-form KLs of a pair of traces, [K, N].

    Raises:
        ValueError: as `analytic_kl`.
    """
    names, of_model = latent_order(pair.guide), latent_order(pair.model)
    if names != of_model:
        raise ValueError(
            f"the guide samples {names} and the model {of_model}: closed forms add up only if "
            "both sample the same sites in the same order; use monte_carlo_kl"
        )
    total: Any = torch.zeros(())
    for name in names:
        total = total + _site_kl(name, pair.guide.nodes[name], pair.model.nodes[name])
    return torch.as_tensor(total).expand(pair.layout.shape)


def dimension_rates(
    target: Target, x: Tensor, *context: ContextValue, particles: int
) -> dict[str, Tensor]:
    """Return the KL of each dimension of each site, [N, D] in nats, averaged over particles.

    The event axes of a site are flattened. The sum over D is the site's term in `analytic_kl`. A
    site is left out if one of its two distributions is not a product of univariate ones, or if
    its KL has no closed form. The result is empty if the two programs sample their sites in
    different orders, or enumerate one.

    Raises:
        ValueError: as `log_weights`, if the programs do not match.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.zeros(5, 64)
        >>> pv.kl.dimension_rates(vae, x, particles=1)["z"].shape
        torch.Size([5, 2])
    """
    (model, guide), x, context = programs_and_data(target, x, context)
    pair = TracePair.run(model, guide, x, *context, particles=particles)
    if particles > 1 and on_rows(pair):
        one = [dimension_rates((model, guide), x, *context, particles=1) for _ in range(particles)]
        return {name: torch.stack([rates[name] for rates in one]).mean(0) for name in one[0]}
    return pair_kl_by_dimension(pair)


def pair_kl_by_dimension(pair: TracePair) -> dict[str, Tensor]:
    """Return the KL of each dimension, as `dimension_rates`, from a pair of traces."""
    names = latent_order(pair.guide)
    if names != latent_order(pair.model) or set(names) & set(pair.enumerated):
        return {}
    found = {}
    for name in names:
        divergence = _kl_by_dimension(pair.guide.nodes[name], pair.model.nodes[name])
        if divergence is not None:
            found[name] = divergence.expand(*pair.layout.shape, -1).mean(0)
    return found


def monte_carlo_kl(
    target: Target, x: Tensor, *context: ContextValue, particles: int, chunk: int | None = None
) -> Estimate:
    r"""Estimate the rate, $\frac1K \sum_k \log q(z_{kn} | x_n) - \log p(z_{kn})$.

    It needs no closed form. The particles are the same as those of `log_weights` at the same
    seed. Arguments are as of `log_weights`.

    Returns:
        The estimate [N] in nats, with its standard error over particles.

    Raises:
        ValueError: as `log_weights`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> rate = pv.monte_carlo_kl(vae, torch.zeros(5, 64), particles=100)
        >>> exact = pv.analytic_kl(vae, torch.zeros(5, 64))
        >>> bool(((rate.value - exact).abs() < 6 * rate.standard_error).all())
        True
    """
    terms = log_weight_terms(target, x, *context, particles=particles, chunk=chunk)
    return mean_estimate(terms.rate)


def latent_order(trace: Any) -> list[str]:
    """Return the names of a trace's latent sites in the order they were sampled."""
    return [name for name, site in sample_sites(trace) if not site["is_observed"]]


def on_rows(pair: TracePair) -> bool:
    """Return whether a program ran on K N rows, where the families of its sites are hidden."""
    sites = [site for trace in (pair.model, pair.guide) for _, site in sample_sites(trace)]
    return any(isinstance(site["fn"], Folded) for site in sites) and not pair.enumerated


def _site_kl(name: str, guide_site: Any, model_site: Any) -> Tensor:
    q, p = _one_particle(guide_site["fn"], model_site["fn"])
    if guide_site["infer"].get("_enumerate_dim") is not None:
        raise ValueError(
            f"site '{name}' is summed out (enumerated), so it has no KL term: use monte_carlo_kl"
        )
    try:
        divergence = closed_form_kl(q, p)
    except NotImplementedError as error:
        families = " || ".join(type(innermost(fn)).__name__ for fn in (q, p))
        raise ValueError(
            f"site '{name}' has no closed form for KL({families}): use "
            "monte_carlo_kl, or register one with torch.distributions.register_kl"
        ) from error
    if not same_mask(guide_site["mask"], model_site["mask"]):
        raise ValueError(
            f"site '{name}' is masked differently in the model and in the guide, so its KL is not "
            "defined: use monte_carlo_kl, or the same mask in both programs"
        )
    return torch.as_tensor(scale_and_mask(divergence, mask=guide_site["mask"]))


def _kl_by_dimension(guide_site: Any, model_site: Any) -> Tensor | None:
    q, p = _one_particle(guide_site["fn"], model_site["fn"])
    masks = guide_site["mask"], model_site["mask"]
    if q.event_shape != p.event_shape or not same_mask(*masks):
        return None
    event = len(q.event_shape)
    q, p = univariate_factors(q), univariate_factors(p)
    if q is None or p is None:
        return None
    try:
        divergence = td.kl_divergence(q, p)
    except NotImplementedError:
        return None
    flat = divergence.reshape(*divergence.shape[: divergence.dim() - event], -1)
    mask = masks[0].unsqueeze(-1) if isinstance(masks[0], Tensor) else masks[0]
    return torch.as_tensor(scale_and_mask(flat, mask=mask))


def _one_particle(q: Any, p: Any) -> tuple[Any, Any]:
    """Return two distributions of batch shape [K, N] as [1, N], if all particles share them.

    A plate over particles expands distributions that do not depend on them, and torch would
    compute the same KL for each particle.
    """
    one = _narrowed(q, 0), _narrowed(p, 0)
    return (q, p) if None in one else one


def _narrowed(fn: Any, event_dims: int) -> Any:
    """Return a normal that all particles share with batch shape [1, N]; None for others."""
    if isinstance(fn, td.Independent):
        base = _narrowed(fn.base_dist, event_dims + fn.reinterpreted_batch_ndims)
        return None if base is None else td.Independent(base, fn.reinterpreted_batch_ndims)
    dim = -2 - event_dims
    if not isinstance(fn, td.Normal) or len(fn.batch_shape) < -dim:
        return None
    parameters = (fn.loc, fn.scale)
    if any(value.shape[dim] > 1 and value.stride(dim) != 0 for value in parameters):
        return None
    loc, scale = (value.narrow(dim, 0, 1) for value in parameters)
    return td.Normal(loc, scale, validate_args=False)


def _cholesky_normal(distribution: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(distribution, td.MultivariateNormal | td.LowRankMultivariateNormal):
        return distribution.loc, distribution.scale_tril
    independent = isinstance(distribution, td.Independent)
    if independent and distribution.reinterpreted_batch_ndims == 1:
        base = distribution.base_dist
        if isinstance(base, td.Normal):
            return base.loc, torch.diag_embed(base.scale)
    return None


def _low_rank_kl(q: td.LowRankMultivariateNormal, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Return the KL of a normal with covariance W W' + D, without its Cholesky decomposition.

    The decomposition can fail in single precision if W has large entries. The factor
    [W, D^(1/2)] needs no decomposition.
    """
    batch = torch.broadcast_shapes(q.batch_shape, loc.shape[:-1], scale_tril.shape[:-2])
    size = loc.shape[-1]
    factor = torch.cat([q.cov_factor, torch.diag_embed(q.cov_diag.sqrt())], dim=-1)
    columns = torch.cat(
        [factor.expand(*batch, size, factor.shape[-1]), _column(loc - q.loc, batch)], dim=-1
    )
    whitened = torch.linalg.solve_triangular(
        scale_tril.expand(*batch, size, size), columns, upper=False
    )
    log_det = 2 * q.entropy() - size * (1 + math.log(2 * math.pi))
    return 0.5 * (whitened.square().sum((-1, -2)) - size - log_det) + _log_det(scale_tril)


def _column(vector: Tensor, batch: torch.Size) -> Tensor:
    return vector.expand(*batch, vector.shape[-1]).unsqueeze(-1)


def _log_det(scale_tril: Tensor) -> Tensor:
    return scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
