r"""Check that the density of a guide's latents is known, given its auxiliary sites.

A guide may sample u and return z = T(u), where T is a bijection. Then

    log q(z) = log q(u) - log |det dz/du|

Pyro's autoguides have an auxiliary site at u, and at z a Delta whose `log_density` is the second
term. Any other auxiliary site would have to be integrated out of q(z | x). If it were counted as
part of the density, the bound could exceed log p(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.distributions import biject_to

from pyrovae.weights.sites import (
    innermost,
    is_deterministic,
    is_point_mass,
    log_prob,
    sample_sites,
    support_of,
)

__all__ = [
    "REVERSE_DENSITY",
    "check_codes",
    "check_fixed_transform",
    "check_guide",
    "check_measures",
    "check_transform",
]

REVERSE_DENSITY: Final = "_reverse_density"
"""The key of `infer` that marks a factor of a guide as -log r(u | z, x), where r is a normalized
density of the auxiliary sites given the latents. The bound is then that of the joint with u."""

Sites = dict[str, Any]


def check_guide(guide_trace: Any) -> None:
    """Check the sites of a guide: no observed sites, and auxiliary sites only with Deltas.

    Raises:
        ValueError: naming the sites, if the guide has an observed site, or if its auxiliary sites
            are discrete or no latent is a Delta.
    """
    sites = dict(sample_sites(guide_trace))
    foreign = [n for n, s in sites.items() if s["is_observed"] and not _is_reverse(s)]
    if foreign:
        raise ValueError(
            f"the guide observes {foreign}, as pyro.factor does, so the sum of its "
            "log-probabilities is not log q(z | x): move the site to the model, or hide it with "
            "pyro.poutine.block"
        )
    drawn = _auxiliary(sites)
    points = [n for n, s in sites.items() if n not in drawn and is_point_mass(s)]
    discrete = any(s["fn"].support.is_discrete for s in drawn.values())
    if drawn and (discrete or not points):
        raise _unknown(sites)


def check_codes(model_trace: Any, guide_trace: Any) -> None:
    """Check that the model gives probabilities to the values that the guide is certain of.

    Raises:
        ValueError: naming the site, if the model has a density there, another quantizer, or
            another number of codes.
    """
    for name, site in sample_sites(guide_trace):
        other = model_trace.nodes.get(name)
        if other is None or not is_deterministic(site["fn"]):
            continue
        guide_fn, model_fn = innermost(site["fn"]), innermost(other["fn"])
        if not other["fn"].support.is_discrete:
            raise ValueError(
                f"the guide gives one value of site '{name}' probability one, and the model's "
                f"{type(model_fn).__name__} has a density there, so their ratio is no bound: use "
                "a prior over codes, such as priors.Codes(guide.quantizer, positions)"
            )
        own = getattr(guide_fn, "quantizer", None)
        if own is not None and not own.shares_codes(getattr(model_fn, "quantizer", None)):
            raise ValueError(
                f"site '{name}' cannot score its value: the prior and the guide have different "
                "quantizers, also if one is a copy. Give the prior guide.quantizer"
            )
        if model_fn.event_shape != guide_fn.event_shape:
            raise ValueError(
                f"site '{name}' has event shape {tuple(model_fn.event_shape)} in the model but "
                f"{tuple(guide_fn.event_shape)} in the guide: give the prior as many positions as "
                f"the guide, whose network has {guide_fn.codes.shape[-2]}"
            )


def check_measures(model_trace: Any, guide_trace: Any) -> None:
    """Check that each latent has probabilities in both programs, or densities in both.

    A straight-through relaxation draws from a discrete support but scores by a density. The ratio
    of a probability to a density is no weight: its mean is not p(x).

    Raises:
        ValueError: otherwise, naming the site.
    """
    for name, site in sample_sites(guide_trace):
        other = model_trace.nodes.get(name)
        if other is None or any(map(is_point_mass, (site, other))) or is_deterministic(site["fn"]):
            continue
        discrete = [_is_discrete(each["fn"]) for each in (other, site)]
        if None in discrete or discrete[0] is discrete[1]:
            continue
        families = [type(innermost(each["fn"])).__name__ for each in (other, site)]
        kinds = ["probabilities" if each else "a density" for each in discrete]
        raise ValueError(
            f"site '{name}' has {kinds[0]} in the model ({families[0]}) but {kinds[1]} in the "
            f"guide ({families[1]}), so their ratio is no weight and gives no bound on log p(x): "
            "use a discrete family in both programs, such as OneHotCategoricalStraightThrough in "
            "the guide, or a relaxed one in both"
        )


def _is_discrete(fn: Any) -> bool | None:
    """Return whether a distribution has probabilities; None if its support is unknown."""
    try:
        return bool(support_of(fn).is_discrete)
    except (NotImplementedError, AttributeError):
        return None


def check_transform(
    model_trace: Any, guide_trace: Any, retrace: Callable[[poutine.Trace], Any]
) -> None:
    """Check that the Deltas of a guide are a bijection of its auxiliary sites, with its Jacobian.

    Args:
        model_trace: the trace of the model at the guide's draws, for the supports of the latents.
        guide_trace: the trace of the guide under a plate of particles.
        retrace: a function that traces the guide for one particle at the values of a trace.

    Raises:
        ValueError: naming the sites, if the latents are not a bijection of the auxiliary sites,
            or if the log-densities of the Deltas are not -log |det dz/du|.
    """
    sites = dict(sample_sites(guide_trace))
    drawn = _auxiliary(sites)
    if not drawn or any(is_fake(site["value"]) for site in drawn.values()):
        return
    with torch.enable_grad():
        given = _first_particle(sites, drawn)
        sources = [given.nodes[name]["value"] for name in drawn]
        again = dict(sample_sites(retrace(given)))
        latents = [
            _unconstrained(site, model_trace.nodes[name])
            for name, site in again.items()
            if is_point_mass(site) and name not in drawn
        ]
        moved = [latent for latent in latents if _follows(latent[0], sources)]
        stretch = _log_det([latent for latent, _ in moved], sources)
    if stretch is None or not _alike(-stretch, sum(volume for _, volume in moved)):
        raise _unknown(sites)


def check_fixed_transform(
    guide_trace: Any, retrace: Callable[[poutine.Trace], Any], *, points: bool
) -> None:
    """Check that the map T of auxiliary sites to latents has no parameters.

    With a fixed map, the gradient of log q(z) at a fixed z is that of log q(u) at a fixed u. With
    a parameterized one it has further terms, by the inverse of T, which are not known. Nothing is
    checked where gradients are not recorded.

    Args:
        guide_trace: the trace of the guide.
        retrace: a function that traces the guide at the values of a trace.
        points: whether point estimates beside the auxiliary sites, which have no density, may
            have parameters.

    Raises:
        ValueError: naming the sites, otherwise.
    """
    drawn = _auxiliary(dict(sample_sites(guide_trace)))
    if not drawn or not torch.is_grad_enabled():
        return
    given = guide_trace.copy()
    for name, site in sample_sites(guide_trace):
        given.nodes[name] = {**site, "value": site["value"].detach()}
    trained = [name for name, site in sample_sites(retrace(given)) if _has_parameters(site)]
    if trained and points:
        sources = [given.nodes[name]["value"].requires_grad_() for name in drawn]
        again = dict(sample_sites(retrace(given)))
        trained = [name for name in trained if _follows(again[name]["fn"].rsample(), sources)]
    if trained:
        raise ValueError(
            f"the map of the guide's auxiliary sites {list(drawn)} to {trained} has parameters, "
            "and this objective or gradient needs the slope of log q(z | x) at a fixed z, which "
            "only a fixed map gives: use gradient='plain' of a bound such as IWAE, or sample the "
            "latents from one distribution, such as a TransformedDistribution"
        )


def _has_parameters(site: Any) -> bool:
    """Return whether the value or the log-density of a point mass requires a gradient."""
    return is_point_mass(site) and (
        site["fn"].rsample().requires_grad or log_prob(site).requires_grad
    )


def _auxiliary(sites: Sites) -> Sites:
    """Return the auxiliary sites; none if the guide has a factor of their reverse density."""
    if any(_is_reverse(site) for site in sites.values()):
        return {}
    return {
        name: site
        for name, site in sites.items()
        if site["infer"].get("is_auxiliary") and not site["is_observed"]
    }


def _is_reverse(site: Any) -> bool:
    return bool(site["infer"].get(REVERSE_DENSITY))


def _unknown(sites: Sites) -> ValueError:
    drawn = _auxiliary(sites)
    return ValueError(
        f"the density of {[name for name in sites if name not in drawn]} given x depends on the "
        f"auxiliary sites {list(drawn)}, so log q(z | x) and the bound are not known: sample the "
        "latents from one distribution, such as a mixture or a flow. An auxiliary site is allowed "
        "only if a Delta maps it one to one to the latents, as in Pyro's autoguides"
    )


def _first_particle(sites: Sites, drawn: Sites) -> poutine.Trace:
    """Return the first particle of the draws; the auxiliary ones require gradients."""
    given = poutine.Trace()
    for name, site in sites.items():
        if is_point_mass(site) and name not in drawn:
            continue
        value = site["value"].detach()
        value = value.narrow(value.ndim - 2 - site["fn"].event_dim, 0, 1).clone()
        value = value.requires_grad_() if name in drawn else value
        infer = site["infer"]
        given.add_node(name, name=name, type="sample", is_observed=False, value=value, infer=infer)
    return given


def _unconstrained(site: Any, model_site: Any) -> tuple[Tensor, Tensor]:
    """Return an unconstrained latent, [..., D], and its log-density on that scale."""
    value, transform = site["value"], biject_to(model_site["fn"].support)
    batch = value.shape[: value.ndim - site["fn"].event_dim]
    latent = transform.inv(value)
    volume = transform.log_abs_det_jacobian(latent, value).reshape(*batch, -1).sum(-1)
    return latent.reshape(*batch, -1), log_prob(site) + volume


def _follows(latent: Tensor, sources: list[Tensor]) -> bool:
    """Return whether a latent depends on the sources; a point estimate does not."""
    if not latent.requires_grad:
        return False
    slopes = torch.autograd.grad(
        (latent * _weights(latent)).sum(), sources, retain_graph=True, allow_unused=True
    )
    return any(slope is not None and bool(slope.any()) for slope in slopes)


def _log_det(latents: list[Tensor], sources: list[Tensor]) -> Tensor | None:
    """Return log |det dz/du| of each datum; None if z and u have different sizes."""
    shape = sources[0].shape[:2]
    u = [source.reshape(*shape, -1) for source in sources]
    if any(latent.shape[:-1] != shape for latent in latents):
        return None
    if sum(latent.shape[-1] for latent in latents) != sum(source.shape[-1] for source in u):
        return None
    z = torch.cat(latents, -1)

    def slope(of: Tensor) -> Tensor:
        found = torch.autograd.grad(
            of.sum(), sources, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.reshape(*shape, -1) for part in found], -1)

    # Most autoguides sample the unconstrained latents directly: one product shows dz/du = 1.
    weights = _weights(z)
    if _alike(slope(z * weights), weights):
        return torch.zeros(shape, dtype=z.dtype, device=z.device)
    rows = [slope(z[..., j]) for j in range(z.shape[-1])]
    return torch.linalg.slogdet(torch.stack(rows, -2)).logabsdet


def _weights(latent: Tensor) -> Tensor:
    return torch.arange(1, 1 + latent.shape[-1], device=latent.device).to(latent).sqrt()


def _alike(one: Any, other: Any) -> bool:
    one, other = torch.broadcast_tensors(torch.as_tensor(one), torch.as_tensor(other))
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3)
