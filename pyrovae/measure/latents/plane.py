r"""The aggregate posterior and the prior over two dimensions of a latent site, on a grid.

    q(z_a, z_b) = 1/N sum_n q(z_a | x_n) q(z_b | x_n)

The density of a site that depends on others is averaged over draws of these. A distribution that
does not factorize, such as a flow, is replaced by a kernel density estimate of its draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.measure.latents.active_units import PROBED, Activity, active_units, check_several
from pyrovae.measure.latents.sites import (
    LatentSite,
    drawn,
    flat,
    latent_sites,
)
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.given import Given
from pyrovae.weights.sites import univariate_factors
from pyrovae.weights.target import Resolved

__all__ = ["LatentPlane", "latent_plane"]

POINTS: Final = 121
"""The number of grid points in each direction."""

LEAST_DRAWS: Final = 2000
"""The minimum number of draws over which a density is averaged."""

DRAWS_EACH: Final = 10
"""The draws per datum of a site that depends on others or does not factorize."""

TAIL: Final = 0.001
"""The share of draws beyond each edge of the grid."""


@dataclass(frozen=True)
class LatentPlane:
    """The aggregate posterior and the prior on a grid over two latent dimensions.

    Attributes:
        names: the names of the two dimensions.
        grid: the coordinates of the grid points, equally spaced in each dimension, [2, G].
        aggregate: the density q(z), [G, G]; the first index runs along the first dimension.
        prior: the density p(z), [G, G].
        hole: the ratio of densities that defines a hole.
        size: N, the number of data.
        smoothed: which of "aggregate" and "prior" are kernel density estimates.
    """

    names: tuple[str, str]
    grid: Tensor
    aggregate: Tensor
    prior: Tensor
    hole: float
    size: int
    smoothed: tuple[str, ...]

    @property
    def in_holes(self) -> Tensor:
        """Whether q(z) < hole p(z) at each grid point, [G, G]."""
        return self.aggregate < self.hole * self.prior

    @property
    def outside(self) -> Tensor:
        """Whether p(z) < hole q(z) at each grid point, [G, G]."""
        return self.prior < self.hole * self.aggregate

    @property
    def prior_mass_in_holes(self) -> float:
        """The share of the prior's mass on the grid that lies in holes."""
        return (self.prior * self.in_holes).sum().item() / self.prior.sum().item()

    @property
    def aggregate_mass_outside(self) -> float:
        """The share of the aggregate posterior's mass on the grid that lies outside the prior."""
        return (self.aggregate * self.outside).sum().item() / self.aggregate.sum().item()


@torch.no_grad()
def latent_plane(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    dimensions: tuple[str, str] | None = None,
    hole: float = 0.05,
) -> LatentPlane:
    """Evaluate the aggregate posterior and the prior over two dimensions of one latent site.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        x: data [N, ...], at least two.
        *context: further arguments of the programs.
        dimensions: names such as ("z[0]", "z[3]"); by default the most active dimension and the
            next most active one of the same site.
        hole: the ratio of densities that defines a hole, q(z) < hole p(z). The default of 0.05
            is ours.

    Returns:
        Both densities on a grid [G, G], with the masses in holes.

    Raises:
        ValueError: if the site has a single dimension, or the dimensions are not two of one
            continuous site; and as `active_units`.

    References:
        Rosca, Lakshminarayanan, Mohamed, 2018. Distribution Matching in Variational Inference.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> plane = pv.latent_plane(vae, torch.rand(20, 64).round(), dimensions=("z[0]", "z[2]"))
        >>> plane.aggregate.shape
        torch.Size([121, 121])
    """
    resolved = Resolved.of(target)
    given, model, guide = resolved.given(x, *context), resolved.model, resolved.guide
    x, *context = given  # type: ignore[assignment]
    check_several(given)
    with resolved.evaluating():
        probe = given.first(PROBED)
        sites = latent_sites(guide, *probe)
        names = dimensions or _most_active(sites, active_units(target, *given))
        at = [_located(sites, name) for name in names]
        if len(at) != 2 or at[0][0] != at[1][0] or at[0][1] == at[1][1]:
            raise ValueError(
                f"expected two dimensions of one latent site; got {list(names)}: name two such "
                "as ('z[0]', 'z[1]')"
            )
        columns = [column for _, column in at]
        site = at[0][0]
        posteriors = _components(guide, site, columns, given)
        prior, _ = _located(latent_sites(model, *probe), names[0])
        priors = _components(model, prior, columns, given)
    grid = _grid(posteriors.draws, priors.draws)
    return LatentPlane(
        names=(names[0], names[1]),
        grid=grid,
        aggregate=posteriors.density(grid),
        prior=priors.density(grid),
        hole=hole,
        size=len(x),
        smoothed=tuple(
            name
            for name, found in (("aggregate", posteriors), ("prior", priors))
            if found.smoothed
        ),
    )


@dataclass(frozen=True)
class _Components:
    """The components of a mixture density over two dimensions.

    Attributes:
        draws: draws of the two dimensions, [L, 2].
        factors: univariate distributions of batch shape [K, N, ...]; empty for a kernel density
            estimate.
        columns: the indices of the two dimensions.
    """

    draws: Tensor
    factors: list[Any]
    columns: list[int]

    @property
    def smoothed(self) -> bool:
        return not self.factors

    def density(self, grid: Tensor) -> Tensor:
        """Return the density [G, G] on a grid [2, G]."""
        total = torch.zeros(grid.shape[1], grid.shape[1], dtype=torch.float64)
        for across, up in self._densities(grid):
            total += (across.double() @ up.double().T).cpu()
        return total / len(self.draws)

    def _densities(self, grid: Tensor) -> Iterator[list[Tensor]]:
        """Yield the densities of some components in each dimension, [G, L] each."""
        if self.smoothed:
            width = self.draws.std(0) * len(self.draws) ** (
                -1 / 6
            )  # Silverman's rule in two dimensions
            points = grid.to(self.draws.device).unsqueeze(-1)
            yield [
                td.Normal(self.draws[:, c], width[c]).log_prob(points[c]).exp() for c in range(2)
            ]
        for factor in self.factors:
            axes = [1] * len(factor.batch_shape)
            densities = [
                factor.log_prob(points.to(self.draws).reshape(-1, *axes)).exp() for points in grid
            ]
            yield [
                density.flatten(3)[..., column].flatten(1)
                for density, column in zip(densities, self.columns, strict=True)
            ]


def _components(
    program: Program, site: LatentSite, columns: list[int], given: Given
) -> _Components:
    """Run a program on all data; return the draws and the distributions of a site."""
    fn = drawn(program, 1, *given.first(1)).nodes[site.name]["fn"]
    each = DRAWS_EACH if site.dependent or univariate_factors(fn) is None else 1
    particles = max(each, math.ceil(LEAST_DRAWS / len(given)))
    draws, factors = [], []
    for part in given.passes(particles):
        found = drawn(program, particles, *part).nodes[site.name]
        draws.append(flat(found["value"])[..., columns].flatten(0, 1))
        factors.append(univariate_factors(found["fn"]))
    return _Components(torch.cat(draws), [f for f in factors if f is not None], columns)


def _grid(*draws: Tensor) -> Tensor:
    """Return a grid [2, G] over all draws except the outermost `TAIL`."""
    edges = torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)
    spans = torch.stack([d.double().quantile(edges.to(d.device), 0) for d in draws]).cpu()
    low, high = spans[:, 0].amin(0), spans[:, 1].amax(0)
    margin = 0.1 * (high - low)
    return torch.stack(
        [
            torch.linspace(a, b, POINTS, dtype=torch.float64)
            for a, b in zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
        ]
    )


def _most_active(sites: list[LatentSite], activity: Activity) -> tuple[str, ...]:
    """Return the two most active dimensions of the site with the most active one."""
    names = [activity.names[j] for j in activity.order]
    same = [name for name in names if any({name, names[0]} <= {*site.names} for site in sites)]
    return tuple(sorted(same[:2], key=activity.names.index))


def _located(sites: list[LatentSite], name: str) -> tuple[LatentSite, int]:
    """Return the site and the index of a dimension.

    Raises:
        ValueError: if no continuous site has it.
    """
    for site in sites:
        if not site.discrete and name in site.names:
            return site, site.names.index(name)
    raise ValueError(
        f"no continuous latent site has a dimension '{name}'; the sites are "
        f"{[site.name for site in sites]}: name one such as 'z[0]'"
    )
