r"""One run of a model and a guide on K particles of N data, and what is read off it.

Every measured number is a reduction of the two traces in a `TracePair`: the log-weights

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)        shape [K particles, N data],

their parts by site, the joint density at each value of an enumerated site. Log-probabilities are
unscaled, with their masks: a KL weight, a subsampling scale or a tempered objective cannot reach
a measured number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.weights.log_joint import Layout
from pyrovae.weights.sites import enumeration_dim, sample_sites
from pyrovae.weights.traces import Program, trace_pair

__all__ = ["Sites", "Terms", "TracePair"]

Sites = dict[str, Tensor]


class Terms(NamedTuple):
    """The log-weights by site; every tensor has shape [K, N], in nats.

    Attributes:
        prior: log p of each latent site in the model.
        likelihood: log p of each observed site.
        guide: log q of each site of the guide. Enumerated sites stand under one entry, their
            names joined by "+": the exact conditional that makes the parts add up to log_w.
    """

    prior: Sites
    likelihood: Sites
    guide: Sites

    @property
    def rate(self) -> Tensor:
        """The log-ratio log q(z | x) - log p(z): a one-sample estimate of the KL divergence."""
        return _total(self.guide) - _total(self.prior)

    @property
    def log_likelihood(self) -> Tensor:
        """The term log p(x | z): the negative distortion."""
        return torch.as_tensor(_total(self.likelihood))

    @property
    def log_w(self) -> Tensor:
        """The log-weight log p(x, z) - log q(z | x)."""
        return self.log_likelihood - self.rate


@dataclass(frozen=True)
class TracePair:
    """The traces of a model and of the guide whose draws it was run on.

    Attributes:
        model: the trace of the model.
        guide: the trace of the guide.
        layout: the shape [K, N] and the dimensions of enumerated sites.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x, run = torch.zeros(5, 64), pv.weights.pair.TracePair.run
        >>> pair = run(vae.model, vae.guide, x, particles=3)
        >>> list(pair.latent), list(pair.observed), pair.log_w.shape
        (['z'], ['x'], torch.Size([3, 5]))
    """

    model: Any
    guide: Any
    layout: Layout

    @classmethod
    def run(
        cls, model: Program, guide: Program, *args: Any, particles: int, enumerate: bool = True
    ) -> TracePair:
        """Run both programs once; arguments and errors as of `trace_pair`."""
        traces = trace_pair(model, guide, *args, particles=particles, enumerate=enumerate)
        return cls(*traces, Layout.measured(*traces, particles=particles))

    @cached_property
    def latent(self) -> dict[str, Any]:
        """The latent sites of the model."""
        return {n: site for n, site in sample_sites(self.model) if not site["is_observed"]}

    @cached_property
    def observed(self) -> dict[str, Any]:
        """The observed sites of the model."""
        return {n: site for n, site in sample_sites(self.model) if site["is_observed"]}

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The sites that the guide draws; those that it enumerates are left out."""
        sites = sample_sites(self.guide)
        return {n: site for n, site in sites if enumeration_dim(site) is None}

    @cached_property
    def enumerated(self) -> list[str]:
        """The names of the sites that are summed out."""
        sites = self.latent | dict(sample_sites(self.guide))
        return [name for name, site in sites.items() if enumeration_dim(site) is not None]

    @property
    def log_w(self) -> Tensor:
        """The log-weights [K, N], enumerated sites summed out: the sum of `terms`."""
        return self.terms.log_w

    @property
    def log_joint(self) -> Tensor:
        """The log-weights at each value of the enumerated sites, [..., K, N]."""
        log_p = self.layout.log_density(sample_sites(self.model))
        return log_p - self.layout.log_density(self.drawn.items())

    @property
    def terms(self) -> Terms:
        """The log-weights by site, each averaged over the posterior of the enumerated sites."""
        layout = self.layout
        terms = Terms(
            prior=layout.scores(self.latent.items()),
            likelihood=layout.scores(self.observed.items()),
            guide=layout.scores(self.drawn.items()),
        )
        return _averaged(terms, self.enumerated, layout) if self.enumerated else terms


def _averaged(terms: Terms, enumerated: list[str], layout: Layout) -> Terms:
    """Average each term over the exact posterior of the enumerated sites.

    A class that is impossible has no part in the averages, nor in their gradients, where a term
    of minus infinity would make 0 times infinity. Where all are impossible, the averages are over
    all, and the impossible term says so.
    """
    joint = terms.log_w
    full = torch.broadcast_shapes(joint.shape, layout.shape)
    joint = layout.alternatives(joint)
    impossible = (joint == -torch.inf).all(0)
    log_posterior = torch.where(impossible, 0.0, joint).log_softmax(0)
    posterior = log_posterior.exp()

    def average(term: Tensor) -> Tensor:
        spread = term.expand(full).reshape(-1, *layout.shape)
        return (posterior * torch.where(posterior != 0, spread, 0.0)).sum(0)

    def averages(sites: Sites) -> Sites:
        return {name: average(term) for name, term in sites.items()}

    summed = {"+".join(enumerated): average(log_posterior.reshape(full))}
    return Terms(averages(terms.prior), averages(terms.likelihood), averages(terms.guide) | summed)


def _total(sites: Sites) -> Any:
    return sum(sites.values())
