r"""Active units: the latent dimensions whose posterior means vary over the data.

A dimension is active if $Var_x(E_q[z_j | x]) > 0.01$, a threshold for standard normal priors
(Burda et al., 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pyrovae.measure.latents.sites import latent_sites
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.bounds import students_factor
from pyrovae.weights.given import Given
from pyrovae.weights.posterior_means import PROBED, posterior_means
from pyrovae.weights.target import Resolved

__all__ = ["ACTIVE", "PROBED", "Activity", "active_units", "check_several"]

ACTIVE: Final = 0.01
"""The variance of the posterior mean above which a dimension is active (Burda et al., 2016).

The threshold assumes a standard normal prior and is not scaled for others. Under a narrow prior, a
dimension below it may still be informative about x.
"""


@dataclass(frozen=True)
class Activity:
    """How much the posterior mean of each latent dimension varies over the data.

    Attributes:
        names: the names of the D dimensions of continuous sites, such as "z[0]".
        squares: [N, D], squared deviations of the posterior means, minus the sampling variance of
            estimated means. Their mean over data is an unbiased estimate of the variance.

    Example:
        >>> import torch
        >>> from pyrovae.measure.latents.active_units import Activity
        >>> Activity(("z[0]", "z[1]"), torch.tensor([[0.5, 0.0], [0.7, 0.0]])).active
        tensor([ True, False])
    """

    names: tuple[str, ...]
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance over data of each posterior mean, [D]."""
        return self.squares.mean(0)

    @property
    def error_over_data(self) -> Tensor:
        """The standard error of each variance over data, times `students_factor`, [D]."""
        count = len(self.squares)
        return students_factor(count) * self.squares.std(0) / math.sqrt(count)

    @property
    def active(self) -> Tensor:
        """Whether each dimension is active, [D]."""
        return self.variance > ACTIVE

    @property
    def count(self) -> int:
        """The number of active dimensions."""
        return int(self.active.sum())

    @property
    def order(self) -> list[int]:
        """The indices of the dimensions, sorted from most to least active."""
        found: list[int] = self.variance.argsort(descending=True, stable=True).tolist()
        return found


@torch.no_grad()
def active_units(target: Target, x: Tensor, *context: ContextValue) -> Activity:
    r"""Estimate the variance over data of each latent dimension's posterior mean.

    $$ A_j = Var_x\left( E_{q(z | x)}[z_j] \right) $$

    Posterior means are computed in closed form where the distribution has one and depends on no
    other site. Otherwise they are estimated from 100 draws per datum, and the variance of that
    estimate is subtracted, so that the result is unbiased.
    Discrete sites are left out.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        x: data [N, ...], at least two.
        *context: further arguments of the programs.

    Returns:
        The variances [D], which dimensions are active, and their order.

    Raises:
        ValueError: for fewer than two data, if there is no latent site, and, naming the site, for
            a Delta or a masked site.
        UndefinedMean: if q(z | x) has no mean, as a Cauchy distribution has none.

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
    """Compute the activity of the guide's continuous sites, data in passes."""
    probed = given.first(PROBED)
    sites = [site for site in latent_sites(guide, *probed) if not site.discrete]
    if not sites:
        return Activity((), torch.zeros(len(given), 0))
    found = posterior_means(guide, given, [site.name for site in sites])
    means, noise = (torch.cat(parts, -1) for parts in zip(*found.values(), strict=True))
    means = means.double()
    spread = (means - means.mean(0)).square() * (len(given) / (len(given) - 1))
    return Activity(tuple(name for site in sites for name in site.names), spread - noise)


def check_several(given: Given) -> None:
    """Check that there are at least two data.

    Raises:
        ValueError: for fewer than two data.
    """
    if len(given) < 2:
        raise ValueError(
            f"latent diagnostics compare different data; got {len(given)}: pass two or more"
        )
