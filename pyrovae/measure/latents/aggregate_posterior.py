r"""The aggregate posterior of a guide over data, and its density at any values.

    q(z) = 1/N sum_n q(z | x_n)

The guide is run at the values under each datum, so the density of all latents together is exact
whatever the guide. That of one dimension, q(z_j), is at hand where a site's posterior has
univariate marginals and depends on no other site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.measure.findings import collect
from pyrovae.measure.latents.sites import (
    LatentSite,
    Values,
    drawn,
    is_factorized,
    marginals,
)
from pyrovae.weights.given import Given
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.traces import Program

NUMBERS: Final = 2**20
"""How many densities log q(z_j | x_n) a pass holds: few enough for a processor's cache."""


@dataclass(frozen=True)
class Mixture:
    """What the posteriors of N data say of values [K, M]; in nats.

    Attributes:
        own: log q(z | x_m) under the datum that a value was drawn for, [K, M, 1 + D]: all sites
            together, then dimension by dimension.
        others: the log of the sum of q(z | x_n) over the other data, likewise.
        size: N, the data in the mixture.
    """

    own: Tensor
    others: Tensor
    size: int

    @property
    def log_density(self) -> Tensor:
        """The aggregate posterior of the N data, log q(z), [K, M, 1 + D]."""
        return torch.logaddexp(self.own, self.others) - math.log(self.size)

    @property
    def log_density_of_others(self) -> Tensor:
        """That of the N - 1 other data: in expectation the density of the population."""
        return self.others - math.log(self.size - 1)


@dataclass(frozen=True)
class Posterior:
    """A guide as a conditional density q(z | x).

    Attributes:
        guide: the program.
        sites: its latent sites.
        by_dimension: whether dimensions are scored by themselves, where they have a density.
    """

    guide: Program
    sites: list[LatentSite]
    by_dimension: bool = True

    @property
    def separable(self) -> list[LatentSite]:
        """The sites that are scored dimension by dimension."""
        return [site for site in self.sites if site.separable and self.by_dimension]

    @property
    def complete(self) -> bool:
        """Whether every site has a density for each dimension."""
        return all(site.separable for site in self.sites)

    @property
    def dimensions(self) -> int:
        """D, how many dimensions have a density of their own."""
        return sum(site.size for site in self.separable)

    def log_q(self, trace: Any, values: Values) -> Tensor:
        """Score values under a trace's distributions, [K, N, 1 + D]: all sites, each dimension."""
        names = {site.name for site in self.separable}
        each: list[Tensor] = []
        total: Any = 0.0
        for name, site in sample_sites(trace):
            fn, value = site["fn"], values.get(name, site["value"])
            if name in names:
                each.append(marginals(fn).log_prob(value).flatten(2))
            factorized = name in names and is_factorized(fn)
            total = total + (each[-1].sum(-1) if factorized else fn.log_prob(value))
        return torch.cat([total.unsqueeze(-1), *each], -1)

    def log_sums(self, values: Values, owners: Tensor, *data: Any) -> Tensor:
        """Return log sum_n q(z_b | x_n) at values [B, 1, ...], [B, 1 + D], in float64.

        Args:
            values: by site.
            owners: the row of the datum to leave out for each value, [B]; negative for none.
            *data: x [N, ...], and its context.
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
    """A log-sum of q(z | x_n) at some values, over data.

    Attributes:
        posterior: what is summed.
        values: by site, [B, 1, ...].
        owners: the row among all data that each value leaves out, [B]; negative for none.
    """

    posterior: Posterior
    values: Values
    owners: Tensor

    def added(self, total: Tensor | None, start: int, *data: Any) -> Tensor:
        """Return the total [B, 1 + D] with the data of the rows from `start` added to it."""
        part = self.posterior.log_sums(self.values, self.owners - start, *data)
        return part if total is None else torch.logaddexp(total, part)


def over_data(sums: list[Sum], given: Given) -> tuple[list[Tensor], int]:
    """Return sums over all data, and over how many where an interrupt cut them short.

    Memory is bounded: a pass holds so many data that the densities at all values fit.

    Raises:
        KeyboardInterrupt: if the interrupt comes before two data are met.
    """
    width = max(len(s.owners) * (1 + s.posterior.dimensions) for s in sums)
    size = max(1, NUMBERS // width)
    starts = range(0, len(given), size)
    parts = zip(starts, given.cut(size), strict=True)
    # One value, so that an interrupt never parts the totals from each other or from the count.
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
