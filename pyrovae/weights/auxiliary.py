r"""What a guide samples beside its latents, and when their density is known all the same.

A guide may draw u and return z = T(u), a bijection: then log q(z) = log q(u) - log |det dz/du|,
which Pyro's autoguides write as an auxiliary site at u and a Delta at z that carries the second
term. Any other draw beside the latents would have to be integrated out of q(z | x): counted as a
density, it puts a lower bound above log p(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.distributions import biject_to

from pyrovae.weights.sites import is_point_mass, log_prob, sample_sites

REVERSE_DENSITY: Final = "_reverse_density"
"""The key of `infer` that marks a factor of a guide as -log r(u | z, x), r a normalized density of
the auxiliary draws given the latents: the bound is then that of a joint with u."""

Sites = dict[str, Any]


def check_guide(guide_trace: Any) -> None:
    """Refuse what is no density of the latents, as far as the sites of a guide tell.

    Raises:
        ValueError: naming the sites, if the guide observes something, or draws beside the latents
            what none of them can be a transform of.
    """
    sites = dict(sample_sites(guide_trace))
    foreign = [n for n, s in sites.items() if s["is_observed"] and not _is_reverse(s)]
    if foreign:
        raise ValueError(
            f"the guide observes {foreign}, as pyro.factor does: that is no density of its draws, "
            "so that log q is not known: put it into the model, or leave it out of the guide "
            "that is measured with pyro.poutine.block"
        )
    drawn = _auxiliary(sites)
    points = [n for n, s in sites.items() if n not in drawn and is_point_mass(s)]
    discrete = any(s["fn"].support.is_discrete for s in drawn.values())
    if drawn and (discrete or not points):
        raise _unknown(sites)


def check_transform(
    model_trace: Any, guide_trace: Any, retrace: Callable[[poutine.Trace], Any]
) -> None:
    """Hold the Deltas of a guide against its auxiliary draws: z = T(u), and its volume.

    Args:
        model_trace: of the model at the guide's draws, whose supports the latents have.
        guide_trace: of the guide under a plate of particles.
        retrace: traces the guide for one particle at the values of a trace.

    Raises:
        ValueError: naming the sites, if the latents are not one to one with the draws, or their
            log-densities are not those of the transform.
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


def _auxiliary(sites: Sites) -> Sites:
    """Return the sites drawn beside the latents, unless their reverse density is in the bound."""
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
        f"auxiliary sites {list(drawn)}, so that it is not known, and no bound with it: draw the "
        "latents from one distribution, such as a mixture or a flow. Auxiliary are only draws "
        "that a Delta takes to the latents one to one, as in Pyro's autoguides"
    )


def _first_particle(sites: Sites, drawn: Sites) -> poutine.Trace:
    """Return the first particle of what is drawn; the auxiliary draws ask for gradients."""
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
    """Return where a latent is in real numbers, [..., D], and its log-density there."""
    value, transform = site["value"], biject_to(model_site["fn"].support)
    batch = value.shape[: value.ndim - site["fn"].event_dim]
    latent = transform.inv(value)
    volume = transform.log_abs_det_jacobian(latent, value).reshape(*batch, -1).sum(-1)
    return latent.reshape(*batch, -1), log_prob(site) + volume


def _follows(latent: Tensor, sources: list[Tensor]) -> bool:
    """Tell whether a latent depends on the sources; an autoguide's point does not."""
    if not latent.requires_grad:
        return False
    slopes = torch.autograd.grad(
        (latent * _weights(latent)).sum(), sources, retain_graph=True, allow_unused=True
    )
    return any(slope is not None and bool(slope.any()) for slope in slopes)


def _log_det(latents: list[Tensor], sources: list[Tensor]) -> Tensor | None:
    """Return log |det dz/du| of each datum; None where the numbers are not as many."""
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

    # Most autoguides draw the unconstrained latents themselves: one product tells.
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
