r"""Which latent dimensions carry something about the data.

A dimension is active where its posterior mean varies over the data, $Var_x(E_q[z_j | x]) > 0.01$,
the mark of a standard normal prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.measure.latents.sites import (
    LatentSite,
    drawn,
    flat,
    latent_sites,
)
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

ACTIVE: Final = 0.01
"""The variance of the posterior mean above which a latent is active (Burda et al., 2016).

It is meant for a standard normal prior, and is not scaled by the variance of another: where the
prior is narrow, a dimension below the mark may still tell much about x.
"""

MEAN_DRAWS: Final = 100
"""Draws for the mean of a posterior that has none in closed form."""

PROBED: Final = 8
"""Data on which the sites of a program are looked at."""


@dataclass(frozen=True)
class Activity:
    """How much the posterior mean of each latent dimension varies over the data.

    Attributes:
        names: of the D dimensions of continuous sites, such as "z[0]".
        squares: [N, D], squared deviations of the posterior means, less the variance of the
            draws they were taken from; their mean over data is the unbiased variance.
    """

    names: tuple[str, ...]
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance over data of each posterior mean, [D]."""
        return self.squares.mean(0)

    @property
    def error_over_data(self) -> Tensor:
        """The standard error of each variance: how another test set would differ, [D]."""
        return self.squares.std(0) / math.sqrt(len(self.squares))

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, [D]."""
        return self.variance > ACTIVE

    @property
    def count(self) -> int:
        """How many dimensions are active."""
        return int(self.active.sum())

    @property
    def order(self) -> list[int]:
        """The dimensions from the most active to the least."""
        found: list[int] = self.variance.argsort(descending=True, stable=True).tolist()
        return found


@torch.no_grad()
def active_units(target: Target, x: Tensor, *context: ContextValue) -> Activity:
    r"""Measure how the posterior mean of each latent dimension varies over the data.

    $$ A_j = Var_x\left( E_{q(z | x)}[z_j] \right) $$

    The means are taken in closed form where the site has one and stands by itself, and from 100
    draws for each datum elsewhere; the variance that their noise adds is taken off again, so that
    the estimate is unbiased. Discrete sites are left out.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        x: data [N, ...], two at least.
        *context: what the programs take beside x.

    Raises:
        ValueError: for fewer than two data, and as `latent_sites.latent_sites`.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders, section 5.2.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.active_units(vae, torch.zeros(5, 64)).count  # all data are alike
        0
    """
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    check_several(given)
    with resolved.evaluating():
        return _activity(resolved.guide, given)


def _activity(guide: Program, given: Given) -> Activity:
    probed = given.first(PROBED)
    sites = [site for site in latent_sites(guide, *probed) if not site.discrete]
    if not sites:
        return Activity((), torch.zeros(len(given), 0))
    probe = drawn(guide, 1, *probed)
    closed = all(_has_mean(site, probe.nodes[site.name]["fn"]) for site in sites)
    particles = 1 if closed else MEAN_DRAWS
    pieces = [
        _means(sites, drawn(guide, particles, *part), closed=closed)
        for part in given.passes(particles)
    ]
    means, noise = (torch.cat(columns) for columns in zip(*pieces, strict=True))
    spread = (means - means.mean(0)).square() * (len(given) / (len(given) - 1))
    return Activity(tuple(name for site in sites for name in site.names), spread - noise)


def check_several(given: Given) -> None:
    """Check that there are data to compare.

    Raises:
        ValueError: for fewer than two.
    """
    if len(given) < 2:
        raise ValueError(
            f"latents of different data are compared; got {len(given)}: give two or more"
        )


def _means(sites: list[LatentSite], trace: Any, *, closed: bool) -> tuple[Tensor, Tensor]:
    """Return the posterior means and the variance of their noise, [N, D] each, in float64."""
    if closed:
        means = [flat(trace.nodes[site.name]["fn"].mean) for site in sites]
        mean = torch.cat(means, -1)[0].double()
        return mean, torch.zeros_like(mean)
    draws = torch.cat([flat(trace.nodes[site.name]["value"]) for site in sites], -1).double()
    return draws.mean(0), draws.var(0) / len(draws)


def _has_mean(site: LatentSite, fn: Any) -> bool:
    try:
        return not site.dependent and bool(fn.mean.isfinite().all())
    except NotImplementedError:
        return False
