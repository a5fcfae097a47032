"""The latent sites of a program, drawn and scored at values of one's own, nothing summed out.

A value of K particles for each of N data has shape [K, N, ...]. A program run at given values
scores them under its own data: so the posterior of one datum is held against another's draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from pyro import poutine
from torch import Tensor
from torch import distributions as td

from pyrovae.types import ContextValue, Program
from pyrovae.weights.log_joint import Layout
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import (
    advice_on_shapes,
    check_plates,
    enumeration_dim,
    is_point_mass,
    log_prob,
    sample_sites,
)
from pyrovae.weights.traces import held, trace_model

Values = dict[str, Tensor]

PROBES: Final = 4
"""Particles that tell whether a site depends on another."""


@dataclass(frozen=True)
class LatentSite:
    """What is known of a latent site before it is measured.

    Attributes:
        name: of the site.
        size: D, the numbers in one value.
        discrete: whether its values are classes, bits or counts.
        dependent: whether its distribution depends on another latent site.
        marginals: whether its distribution has univariate marginals in closed form.
    """

    name: str
    size: int
    discrete: bool
    dependent: bool
    marginals: bool

    @property
    def separable(self) -> bool:
        """Whether q(z_j | x) is at hand: of a continuous site that stands by itself."""
        return self.marginals and not self.dependent and not self.discrete

    @property
    def names(self) -> list[str]:
        """The names of its dimensions, such as "z[0]"."""
        return [f"{self.name}[{j}]" for j in range(self.size)]


def latent_sites(program: Program, x: Tensor, *context: ContextValue) -> list[LatentSite]:
    """Describe the latent sites of a model or a guide, auxiliary ones left out.

    Args:
        program: run a few times on the data given, so that a few rows are enough.
        x: data [N, ...], two at least.
        *context: what the program takes beside x.

    Raises:
        ValueError: naming the site, if it has no density of its own or is masked, or if the
            density of the latents depends on auxiliary sites.

    Example:
        >>> latent_sites(vae.guide, x)
        [LatentSite(name='z', size=2, discrete=False, dependent=False, marginals=True)]
    """
    trace = drawn(program, PROBES, x, *context)
    values = latent_values(trace)
    if not values:
        raise ValueError("the program samples no latent site of its own: there is none to measure")
    for name in values:
        check_plates(name, trace.nodes[name], len(x))
        _check_density(trace.nodes[name])
    scored = [drawn(program, PROBES, x, *context, given=_rolled(values, keep)) for keep in values]
    _check_auxiliary(program, values, x, *context)
    return [
        LatentSite(
            name=name,
            size=values[name][0, 0].numel(),
            discrete=bool(trace.nodes[name]["fn"].support.is_discrete),
            dependent=not alike(log_prob(trace.nodes[name]), log_prob(other.nodes[name])),
            marginals=marginals(trace.nodes[name]["fn"]) is not None,
        )
        for name, other in zip(values, scored, strict=True)
    ]


def drawn(program: Program, particles: int, *data: Any, given: Values | None = None) -> Any:
    """Trace a program under a plate of K particles, the sites in `given` at these values."""
    program = poutine.replay(over_particles(program, particles), trace=held(given or {}))
    with advice_on_shapes():
        return poutine.trace(program).get_trace(*data)


def latent_values(trace: Any) -> Values:
    """Return the values of a trace's latent sites, auxiliary ones left out."""
    return {
        name: site["value"]
        for name, site in sample_sites(trace)
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }


def flat(value: Tensor) -> Tensor:
    """Return a value [K, N, ...] as [K, N, D]."""
    return value.reshape(*value.shape[:2], -1)


def marginals(fn: Any) -> Any:
    """Return the univariate marginals of a distribution, event by event; None where unknown."""
    if isinstance(fn, td.MultivariateNormal | td.LowRankMultivariateNormal):
        return td.Normal(fn.mean, fn.variance.sqrt())
    return fn.base_dist if is_factorized(fn) else None


def is_factorized(fn: Any) -> bool:
    """Tell whether a distribution is a product of univariate ones."""
    independent = isinstance(fn, td.Independent)
    return independent and fn.reinterpreted_batch_ndims == len(fn.event_shape)


def score_model(
    model: Program, values: Values, x: Tensor, *context: ContextValue
) -> tuple[Tensor, Tensor]:
    """Return log p(z) and log p(x | z) at values of the latents, [K, N] each, in nats.

    Latents that the model alone samples are summed out of both, where they are enumerated.

    Raises:
        ValueError: if the model samples a latent that is neither given nor summed out.
    """
    particles = len(next(iter(values.values())))
    trace = trace_model(model, x, *context, particles=particles, given=held(values))
    layout = Layout.measured(trace, particles=particles)
    sites = dict(sample_sites(trace))
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    for name, site in latent.items():
        if name not in values and enumeration_dim(site) is None:
            raise ValueError(
                f"the model samples the site '{name}' and the guide does not: add it to the "
                'guide, or sum it out with infer={"enumerate": "parallel"}'
            )
    log_prior = layout.summed_out(layout.log_density(latent.items()))
    return log_prior, layout.summed_out(layout.log_density(sites.items())) - log_prior


def alike(first: Tensor, second: Tensor) -> bool:
    """Tell whether log-probabilities are the same but for rounding."""
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def _rolled(values: Values, keep: str) -> Values:
    """Give each datum another's values, of all sites but one."""
    return {n: v if n == keep else v.roll((1, 1), (0, 1)) for n, v in values.items()}


def _check_density(site: Any) -> None:
    if is_point_mass(site):
        raise ValueError(
            f"site '{site['name']}' is a Delta, whose draws have no density at another datum, so "
            "that its aggregate posterior has none: give the guide a scale, or hold draws against "
            "the prior's with pyrovae.objectives.aggregate.mmd"
        )
    if site["mask"] is not None and site["mask"] is not True:
        raise ValueError(
            f"site '{site['name']}' is masked, so that it is not of the aggregate posterior: "
            "leave these rows out, or mask the observed site alone"
        )


def _check_auxiliary(program: Program, values: Values, x: Tensor, *context: ContextValue) -> None:
    """Hold the density of the latents against another draw of what is auxiliary."""
    totals = []
    for _ in range(2):
        trace = drawn(program, PROBES, x, *context, given=values)
        sites = dict(sample_sites(trace)).values()
        auxiliary = [site["name"] for site in sites if site["infer"].get("is_auxiliary")]
        if not auxiliary:
            return
        totals.append(torch.as_tensor(sum(log_prob(site) for site in sites)))
    if not alike(*totals):
        raise ValueError(
            f"the density of the sites {list(values)} given x depends on the auxiliary sites "
            f"{auxiliary}, so that it is not known: sum these out in the guide"
        )
