r"""The aggregate posterior, the mean of the guide's posteriors over data, and its density.

    q(z) = 1/N sum_n q(z | x_n)

The guide scores given values under each datum, so the joint density of all latents is exact for
any guide. The density of one dimension, q(z_j), is available where a site's posterior has
univariate marginals and depends on no other site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.measure.latents.sites import (
    LatentSite,
    Values,
    drawn,
    flat,
    marginals,
)
from pyrovae.measure.progress import collect
from pyrovae.weights.given import Given
from pyrovae.weights.sites import sample_sites, univariate_factors
from pyrovae.weights.traces import Program

__all__ = ["Mixture", "Posterior", "Sum", "over_data"]

NUMBERS: Final = 2**20
"""The number of log-densities log q(z_j | x_n) in one pass, chosen to fit a CPU cache."""


@dataclass(frozen=True)
class Mixture:
    """Log-densities, in nats, of K draws for each of M data under the aggregate posterior.

    Attributes:
        own: log q(z | x_m) under the datum that a value was drawn for, [K, M, 1 + D]: first the
            joint density of all sites, then that of each dimension.
        others: the log of the sum of q(z | x_n) over the other data, [K, M, 1 + D].
        size: N, the number of data in the mixture.
    """

    own: Tensor
    others: Tensor
    size: int

    @property
    def log_density(self) -> Tensor:
        """The log-density log q(z) of the aggregate posterior of the N data, [K, M, 1 + D]."""
        return torch.logaddexp(self.own, self.others) - math.log(self.size)

    @property
    def log_density_of_others(self) -> Tensor:
        """The log-density of the mixture over the N - 1 other data, [K, M, 1 + D].

        The expectation of this density is the aggregate posterior of the population.
        """
        return self.others - math.log(self.size - 1)


@dataclass(frozen=True)
class Posterior:
    """A guide as a conditional density q(z | x).

    Attributes:
        guide: the guide program.
        sites: its latent sites.
        by_dimension: whether to also score each dimension that has a marginal density.
    """

    guide: Program
    sites: list[LatentSite]
    by_dimension: bool = True

    @property
    def separable(self) -> list[LatentSite]:
        """The sites whose dimensions are scored separately."""
        return [site for site in self.sites if site.separable and self.by_dimension]

    @property
    def complete(self) -> bool:
        """Whether every site has a marginal density for each dimension."""
        return all(site.separable for site in self.sites)

    @property
    def dimensions(self) -> int:
        """D, the number of dimensions that are scored separately."""
        return sum(site.size for site in self.separable)

    def log_q(self, trace: Any, values: Values) -> Tensor:
        """Return joint and marginal log-densities of values under a trace, [K, N, 1 + D]."""
        names = {site.name for site in self.separable}
        each: list[Tensor] = []
        total: Any = 0.0
        for name, site in sample_sites(trace):
            fn, value = site["fn"], values.get(name, site["value"])
            if name in names:
                each.append(flat(marginals(fn).log_prob(value)))
            product = name in names and univariate_factors(fn) is not None
            total = total + (each[-1].sum(-1) if product else fn.log_prob(value))
        return torch.cat([total.unsqueeze(-1), *each], -1)

    def log_sums(self, values: Values, owners: Tensor, *data: Any) -> Tensor:
        """Return log sum_n q(z_b | x_n) at values [B, 1, ...], [B, 1 + D], in float64.

        Args:
            values: the value of each site.
            owners: the row of the datum to leave out for each value, [B]; negative for none.
            *data: x [N, ...] and its context.
        """
        size = len(data[0])
        if any(site.dependent for site in self.sites):
            values = {n: v.expand(-1, size, *v.shape[2:]) for n, v in values.items()}
            trace = drawn(self.guide, len(owners), *data, given=values)
        else:
            trace = drawn(self.guide, 1, *data)
        log_q = self.log_q(trace, values)
        own = owners.unsqueeze(1) == torch.arange(size, device=owners.device)
        return log_q.masked_fill_(own.unsqueeze(-1), -math.inf).logsumexp(1).double()


@dataclass(frozen=True)
class Sum:
    """The log of the sum over data of q(z | x_n), at fixed values.

    Attributes:
        posterior: the density q.
        values: the value of each site, [B, 1, ...].
        owners: the row of the datum to leave out for each value, [B]; negative for none.
    """

    posterior: Posterior
    values: Values
    owners: Tensor

    def added(self, total: Tensor | None, start: int, *data: Any) -> Tensor:
        """Add a batch of data, whose first row is `start`, to the running total [B, 1 + D]."""
        part = self.posterior.log_sums(self.values, self.owners - start, *data)
        return part if total is None else torch.logaddexp(total, part)


def over_data(sums: list[Sum], given: Given) -> tuple[list[Tensor], int]:
    """Compute sums over data; return them with the number of data they include.

    An interrupt keeps the data that are done. A pass holds at most `NUMBERS` log-densities, which
    bounds the memory.

    Raises:
        KeyboardInterrupt: if the interrupt comes before two data are done.
    """
    width = max(len(s.owners) * (1 + s.posterior.dimensions) for s in sums)
    size = max(1, NUMBERS // width)
    starts = range(0, len(given), size)
    parts = zip(starts, given.cut(size), strict=True)
    # Totals and count are one value, so an interrupt cannot leave them inconsistent.
    found: tuple[list[Any], int] = ([None] * len(sums), 0)

    def add(_: int) -> None:
        nonlocal found
        (start, part), (totals, met) = next(parts), found
        more = [each.added(total, start, *part) for each, total in zip(sums, totals, strict=True)]
        found = more, met + len(part)

    collect(add, starts, "aggregate posterior")
    if found[1] < 2:
        raise KeyboardInterrupt
    return found
