"""The latent sites of a program: their structure, draws, and log-densities at given values.

A value has shape [K particles, N data, ...]. A program replayed at given values scores them under
its own data, so that the posterior of one datum can be evaluated at another datum's draws. Nothing
is enumerated, except in `score_model`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.types import ContextValue, Program
from pyrovae.weights.log_joint import Layout
from pyrovae.weights.sites import (
    check_plates,
    enumeration_dim,
    is_masked,
    is_point_mass,
    log_prob,
    sample_sites,
    univariate_factors,
)
from pyrovae.weights.traces import held, trace_guide

__all__ = [
    "LatentSite",
    "Values",
    "alike",
    "continuous",
    "drawn",
    "flat",
    "latent_sites",
    "latent_values",
    "marginals",
    "score_model",
]

Values = dict[str, Tensor]
"""The value of each latent site, [K, N, ...]."""

PROBES: Final = 4
"""The number of particles that probe whether a site depends on another."""


@dataclass(frozen=True)
class LatentSite:
    """The structure of a latent site.

    Attributes:
        name: the name of the site.
        size: D, the number of entries in one value.
        discrete: whether its values are classes, bits or counts.
        dependent: whether its distribution depends on another site, latent or auxiliary.
        marginals: whether its distribution has univariate marginals in closed form.
    """

    name: str
    size: int
    discrete: bool
    dependent: bool
    marginals: bool

    @property
    def separable(self) -> bool:
        """Whether each dimension has a density q(z_j | x) in closed form."""
        return self.marginals and not self.dependent and not self.discrete

    @property
    def names(self) -> list[str]:
        """The names of its dimensions, such as "z[0]"."""
        return [f"{self.name}[{j}]" for j in range(self.size)]


def latent_sites(program: Program, x: Tensor, *context: ContextValue) -> list[LatentSite]:
    """Describe the latent sites of a model or a guide, without auxiliary sites.

    The program is run again at values of the other sites that are other data's and that require
    gradients. A site is dependent if its log-density has a gradient in these values, however
    small, or changes by more than rounding, as it does where no gradient flows: through an index
    or a detached value. Unlike `pyro.infer.inspect.get_dependencies`, autograd follows in-place
    writes, and a tensor that only has the shape of another (`zeros_like`) does not depend on it.

    Args:
        program: a model or a guide. It is run a few times, so a few rows of data are enough.
        x: data [N, ...], at least two.
        *context: further arguments of the program.

    Raises:
        ValueError: naming the site, if it is a Delta or masked; or if there is no latent site.

    Example:
        >>> latent_sites(vae.guide, x)
        [LatentSite(name='z', size=2, discrete=False, dependent=False, marginals=True)]
    """
    trace = drawn(program, PROBES, x, *context)
    values = latent_values(trace)
    if not values:
        raise ValueError(
            "the program samples no latent site, and latent diagnostics need one: add a "
            "pyro.sample statement without obs"
        )
    for name in values:
        check_plates(name, trace.nodes[name], len(x))
        _check_density(trace.nodes[name])
    return [
        LatentSite(
            name=name,
            size=value[0, 0].numel(),
            discrete=bool(trace.nodes[name]["fn"].support.is_discrete),
            dependent=_is_dependent(program, name, trace, x, *context),
            marginals=marginals(trace.nodes[name]["fn"]) is not None,
        )
        for name, value in values.items()
    ]


def drawn(program: Program, particles: int, *data: Any, given: Values | None = None) -> Any:
    """Trace a program under a plate of K particles, with the sites in `given` fixed."""
    return trace_guide(
        program, *data, particles=particles, given=held(given or {}), enumerate=False
    )


def latent_values(trace: Any) -> Values:
    """Return the values of a trace's latent sites, without auxiliary sites."""
    return {
        name: site["value"]
        for name, site in sample_sites(trace)
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }


def continuous(trace: Any) -> dict[str, tuple[str, int]]:
    """Return the site and the column of each continuous latent dimension of a trace, by name."""
    return {
        f"{name}[{j}]": (name, j)
        for name, value in latent_values(trace).items()
        if not trace.nodes[name]["fn"].support.is_discrete
        for j in range(value[0, 0].numel())
    }


def flat(value: Tensor) -> Tensor:
    """Reshape a value [K, N, ...] to [K, N, D]."""
    return value.reshape(*value.shape[:2], -1)


def marginals(fn: Any) -> Any:
    """Return the univariate marginals of a distribution; None if they have no closed form."""
    if isinstance(fn, td.MultivariateNormal | td.LowRankMultivariateNormal):
        return td.Normal(fn.mean, fn.variance.sqrt())
    return univariate_factors(fn)


def score_model(
    model: Program, values: Values, x: Tensor, *context: ContextValue
) -> tuple[Tensor, Tensor]:
    """Return log p(z) and log p(x | z) at given latents, [K, N] each, in nats.

    Enumerated latents that only the model samples are summed out of both.

    Raises:
        ValueError: if the model samples a latent that is neither given nor enumerated.
    """
    particles = len(next(iter(values.values())))
    # Traced as a guide is: no dimension of an enumerated site is taken before it.
    trace = trace_guide(model, x, *context, particles=particles, given=held(values))
    layout = Layout.measured(trace, particles=particles)
    sites = dict(sample_sites(trace))
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    for name, site in latent.items():
        if name not in values and enumeration_dim(site) is None:
            raise ValueError(
                f"the model samples site '{name}' but the guide does not: add it to the guide, "
                'or enumerate it with infer={"enumerate": "parallel"}'
            )
    log_prior = layout.summed_out(layout.log_density(latent.items()))
    return log_prior, layout.summed_out(layout.log_density(sites.items())) - log_prior


def alike(first: Tensor, second: Tensor) -> bool:
    """Return whether log-probabilities are equal up to rounding."""
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def _is_dependent(program: Program, name: str, trace: Any, *data: Any) -> bool:
    """Return whether a site's log-density depends on the other sites, auxiliary ones included."""
    before = log_prob(trace.nodes[name])
    around = {n: site["value"] for n, site in sample_sites(trace) if not site["is_observed"]}
    value = around.pop(name)
    others = {n: v.detach().roll((1, 1), (0, 1)) for n, v in around.items()}

    def density() -> Tensor:
        # Copies, since a program may not write into a leaf that requires a gradient.
        given = {name: value} | {n: v.clone() for n, v in others.items()}
        return log_prob(drawn(program, PROBES, *data, given=given).nodes[name])

    leaves = [v.requires_grad_() for v in others.values() if v.is_floating_point()]
    with torch.enable_grad(), contextlib.suppress(RuntimeError):  # as of .numpy() of a leaf
        after = density()
        if leaves and after.requires_grad:
            slopes = torch.autograd.grad(after.sum(), leaves, allow_unused=True)
            if any(slope is not None for slope in slopes):
                return True
        return not alike(before, after)
    for leaf in leaves:
        leaf.requires_grad = False
    return not alike(before, density())


def _check_density(site: Any) -> None:
    """Check that a site has a density at every datum: it is no Delta and not masked."""
    if is_point_mass(site):
        raise ValueError(
            f"site '{site['name']}' is a Delta, so the aggregate posterior has no density: give "
            "the guide a scale, or compare draws with the prior's by "
            "pyrovae.objectives.aggregate.mmd"
        )
    if is_masked(site):
        raise ValueError(
            f"site '{site['name']}' is masked, so the aggregate posterior does not include its "
            "masked rows: leave these rows out, or mask the observed site only"
        )
