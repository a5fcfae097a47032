"""The joint density of the sites of a pair of traces, with their scales and enumeration.

The common scale of all sites, such as that of a subsampling plate, multiplies the bound of each
datum. The remaining scale of a latent site, such as a KL weight, is an exponent of its density.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
    same_scale,
    sample_sites,
)

__all__ = ["Layout", "Site", "check_defined", "exponent_of_latents", "guide_sites"]

Site = tuple[str, Any]
"""The name and the message of a sample site."""


@dataclass(frozen=True)
class Layout:
    """The common batch shape, enumeration dimensions and scale of the sites of traces.

    Attributes:
        shape: (K, N).
        enumerated: the dimensions of enumerated sites, left of K.
        scale: the factor of each datum's bound, a number or a tensor that broadcasts to [N]. None
            if scales are ignored, as for evaluation.
    """

    shape: tuple[int, int]
    enumerated: frozenset[int]
    scale: Any = None

    @classmethod
    def measured(cls, *traces: Any, particles: int) -> Layout:
        """Return the layout of traces, with scales ignored."""
        sites = [site for trace in traces for site in sample_sites(trace)]
        return cls.of_sites(sites, (particles, plate_size(*sites[0])))

    @classmethod
    def of_sites(cls, sites: Iterable[Site], shape: tuple[int, int]) -> Layout:
        """Return the layout of sites of batch shape [K, N], with scales ignored."""
        dims = (enumeration_dim(site) for _, site in sites)
        return cls(shape, frozenset(dim for dim in dims if dim is not None))

    @classmethod
    def trained(cls, model_trace: Any, guide_trace: Any, particles: int) -> Layout:
        """Return the layout of two traces, with the common scale of their observed sites.

        Raises:
            ValueError: if two observed sites, or the two programs, have different scales.
        """
        found = cls.measured(model_trace, guide_trace, particles=particles)
        return replace(found, scale=_scale_of_data(model_trace, guide_trace))

    def scores(self, sites: Iterable[Site]) -> dict[str, Tensor]:
        """Return the log-probabilities of sites by name, each [..., K, N], unscaled.

        Raises:
            ValueError: naming the site, if its batch shape is not [..., K, N].
        """
        found = {}
        for name, site in sites:
            found[name] = log_prob(site)
            check_shape(name, found[name].shape, self.shape, set(self.enumerated))
        return found

    def log_density(self, sites: Iterable[Site]) -> Tensor:
        """Return the sum of log-probabilities, [..., K, N], each times its exponent.

        The exponent of a site is its scale divided by the scale of the data, such as a KL weight.
        It is 1 if scales are ignored.

        Raises:
            ValueError: naming the site, if an enumerated site has an exponent other than 1, and
                as `scores`.
        """
        sites = list(sites)
        total: Any = torch.zeros(())
        for (name, site), term in zip(sites, self.scores(sites).values(), strict=True):
            exponent = 1.0 if self.scale is None else _exponent(site["scale"], self.scale)
            if enumeration_dim(site) is not None and not same_scale(exponent, 1.0):
                raise ValueError(
                    f"site '{name}' is summed out (enumerated), and a KL weight on it gives no "
                    "bound: leave it at 1"
                )
            total = total + (term if is_identically_one(exponent) else exponent * term)
        return total

    def alternatives(self, log_w: Tensor) -> Tensor:
        """Return log-weights [..., K, N] as [C, K, N], C the joint values of enumerated sites."""
        full = torch.broadcast_shapes(log_w.shape, self.shape)
        return log_w.expand(full).reshape(-1, *self.shape)

    def summed_out(self, log_w: Tensor) -> Tensor:
        """Return log-weights [K, N], by a logsumexp over the dimensions of enumerated sites."""
        return self.alternatives(log_w).logsumexp(0) if self.enumerated else log_w


def guide_sites(guide_trace: Any) -> list[Site]:
    """Return the sites that a guide samples, without those that it enumerates."""
    return [site for site in sample_sites(guide_trace) if enumeration_dim(site[1]) is None]


def _scale_of_data(model_trace: Any, guide_trace: Any) -> Any:
    """Return the common scale of all observed sites.

    Raises:
        ValueError: if two observed sites, or the two programs, have different scales.
    """
    observed = [s for s in sample_sites(model_trace) if s[1]["is_observed"]]
    latents = [s for s in sample_sites(model_trace) if not s[1]["is_observed"]]
    first, site = (observed or latents)[0]
    for name, other in observed:
        if not same_scale(site["scale"], other["scale"]):
            raise ValueError(
                f"the observed sites '{first}' and '{name}' are scaled by {site['scale']} and "
                f"{other['scale']}, but each datum's bound has one scale: scale all sites alike"
            )
    for name, latent in latents:
        of_guide = guide_trace.nodes.get(name, latent)
        if not same_scale(latent["scale"], of_guide["scale"]):
            raise ValueError(
                f"site '{name}' is scaled by {latent['scale']} in the model and by "
                f"{of_guide['scale']} in the guide: give both programs the same "
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
    """Return the common exponent of all latent sites.

    Raises:
        ValueError: if it differs between sites, since the doubly reparameterized gradient needs a
            single one.
    """
    sites = guide_sites(guide_trace)
    for name, site in sites:
        if not same_scale(site["scale"], sites[0][1]["scale"]):
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


def check_defined(log_w: Tensor, *traces: Any) -> None:
    """Check that no log-weight is NaN or plus infinity.

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
