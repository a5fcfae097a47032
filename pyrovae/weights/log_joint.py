"""What the sites of a pair of traces share, and the density that they have together.

A scale that all sites share, such as a subsampling plate's, stands outside the logarithm of a
bound; what a latent has beyond it, such as a KL weight, is an exponent inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import is_identically_one
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from pyrovae.weights.sites import (
    UndefinedWeight,
    check_shape,
    enumeration_dim,
    log_prob,
    plate_size,
    sample_sites,
)

Site = tuple[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the sites of two traces share.

    Attributes:
        shape: [K, N].
        scale: what multiplies each datum's bound: a number, or a tensor that goes with [N].
        enumerated: the dimensions, left of K, along which sites are summed out.
    """

    shape: tuple[int, int]
    scale: Any
    enumerated: set[int | None]

    def summed_out(self, log_w: Tensor) -> Tensor:
        """Sum weights over the dimensions of enumerated sites."""
        return log_w.reshape(-1, *self.shape).logsumexp(0) if self.enumerated else log_w


def log_density(sites: Iterable[Site], layout: Layout) -> Tensor:
    """Return the sum of log-probabilities, [..., K, N], each times its own part of the scale."""
    total: Any = torch.zeros(())
    for name, site in sites:
        exponent = _exponent(site["scale"], layout.scale)
        if enumeration_dim(site) is not None and _differ(exponent, 1.0):
            raise ValueError(
                f"site '{name}' is summed out, where a KL weight makes no bound: leave it at 1"
            )
        term = log_prob(site)
        check_shape(name, term.shape, layout.shape, layout.enumerated)
        total = total + (term if is_identically_one(exponent) else exponent * term)
    return total


def guide_sites(guide_trace: Any) -> list[Site]:
    """Return the sites that a guide draws: those it enumerates are summed out with the model."""
    return [site for site in sample_sites(guide_trace) if enumeration_dim(site[1]) is None]


def layout_of(model_trace: Any, guide_trace: Any, particles: int) -> Layout:
    """Return what two traces share.

    Raises:
        ValueError: if two observed sites, or the two programs, are scaled differently.
    """
    sites = [*sample_sites(model_trace), *sample_sites(guide_trace)]
    return Layout(
        shape=(particles, plate_size(*sites[0])),
        scale=_scale_of_data(model_trace, guide_trace),
        enumerated={enumeration_dim(site) for _, site in sites} - {None},
    )


def _scale_of_data(model_trace: Any, guide_trace: Any) -> Any:
    """Return the scale that all observed sites share; it stands outside the logarithm.

    Raises:
        ValueError: if two observed sites, or the two programs, are scaled differently.
    """
    observed = [s for s in sample_sites(model_trace) if s[1]["is_observed"]]
    latents = [s for s in sample_sites(model_trace) if not s[1]["is_observed"]]
    first, site = (observed or latents)[0]
    for name, other in observed:
        if _differ(site["scale"], other["scale"]):
            raise ValueError(
                f"the observed sites '{first}' and '{name}' are scaled by {site['scale']} and "
                f"{other['scale']}, but each datum's bound has one scale: scale all sites alike"
            )
    for name, latent in latents:
        if name in guide_trace and _differ(latent["scale"], guide_trace.nodes[name]["scale"]):
            raise ValueError(
                f"site '{name}' is scaled by {latent['scale']} in the model and by "
                f"{guide_trace.nodes[name]['scale']} in the guide: give both programs the same "
                "plates, and wrap both in the same handlers"
            )
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.ndim > 1 and scale.shape[:-1].numel() > 1:
        raise ValueError(
            f"site '{first}' has a scale of shape {tuple(scale.shape)}; wanted one for each "
            "datum, [N], or a single number"
        )
    return scale


def exponent_of_latents(guide_trace: Any, layout: Layout) -> Any:
    """Return the power that all latents share.

    Raises:
        ValueError: if they have several, where no doubly reparameterised gradient is known.
    """
    sites = guide_sites(guide_trace)
    for name, site in sites:
        if _differ(site["scale"], sites[0][1]["scale"]):
            raise ValueError(
                f"gradient='dreg' needs one KL weight for all latents; got scales "
                f"{sites[0][1]['scale']} at site '{sites[0][0]}' and {site['scale']} at '{name}': "
                "use gradient='plain' or 'stl'"
            )
    return _exponent(sites[0][1]["scale"], layout.scale) if sites else 1.0


def _exponent(own: Any, scale: Any) -> Any:
    if isinstance(own, int | float) and isinstance(scale, int | float):
        return own / scale
    own, scale = torch.as_tensor(own), torch.as_tensor(scale)
    return torch.where(own == scale, 1.0, own / scale)


def _differ(one: Any, other: Any) -> bool:
    if one is other or is_fake(one) or is_fake(other):
        return False
    return not torch.equal(*torch.broadcast_tensors(torch.as_tensor(one), torch.as_tensor(other)))


def check_defined(log_w: Tensor, *traces: Any) -> None:
    """Refuse log-weights that are NaN or plus infinity.

    Raises:
        UndefinedWeight: naming the datum and the sites.
    """
    if is_fake(log_w):
        return
    undefined = log_w.isnan() | (log_w == torch.inf)
    if undefined.any():
        datum = int(undefined.any(0).nonzero()[0])
        bad = [name for trace in traces for name, site in sample_sites(trace) if _is_bad(site)]
        raise UndefinedWeight(
            f"the log-weights of datum {datum} are not defined: the log-probability of "
            f"{' and '.join(repr(name) for name in dict.fromkeys(bad))} is not finite there"
        )


def _is_bad(site: Any) -> bool:
    term = log_prob(site)
    return not bool(term.isfinite().all())
