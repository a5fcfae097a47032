r"""How much prior and aggregate mass lies at a point, and whether it is a hole.

    log p(z),   log q(z) = log 1/N sum_n q(z | x_n)

A point is a hole if q(z) < 0.05 p(z), the ratio of `Latents`: the prior samples there, and the
decoder was not trained there. In many dimensions N data leave most of the prior in holes, and q(z)
is high near each of them. So the share of the prior's own draws that lie in holes is said beside a
hole, and the share of the posteriors' own draws where q(z) is so high beside its opposite.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.cli.explore.coordinates import Coordinates
from pyrovae.cli.explore.posteriors import Draws
from pyrovae.measure.latents.aggregate_posterior import Posterior
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.sites import drawn, latent_sites, score_model
from pyrovae.weights.given import Given
from pyrovae.weights.posterior_means import PROBED

__all__ = ["Density"]

REFERENCE: Final = 64
"""The draws whose share is said."""


class Density:
    """The densities of the prior and of the aggregate posterior of N data.

    Args:
        given: the data with their programs.
        coordinates: the latent sites.
        prior: draws of the prior.
        aggregate: draws of the posteriors.
    """

    def __init__(
        self, given: Given, coordinates: Coordinates, prior: Draws, aggregate: Draws
    ) -> None:
        self.given, self.coordinates = given, coordinates
        self.prior, self.aggregate = prior, aggregate

    def at(self, z: Tensor, row: Given) -> dict[str, Any]:
        """Return the log-densities at a point [1, D] in nats, and what they say.

        Args:
            z: the point.
            row: one datum, whose context the prior is given.

        Returns:
            `prior`, `aggregate` and `hole`; a density that cannot be had is None, with a sentence
            in `missing`.
        """
        prior, aggregate = math.nan, math.nan
        missing = []
        try:
            prior = self.log_prior(z, row)
        except ValueError as error:
            missing.append(f"The prior's density is missing: {error}")
        try:
            aggregate = self.log_aggregate(z).item()
        except ValueError as error:
            missing.append(f"The density of the aggregate posterior is missing: {error}")
        known = not (math.isnan(prior) or math.isnan(aggregate))
        return {
            "prior": None if math.isnan(prior) else max(prior, -1e300),
            "aggregate": None if math.isnan(aggregate) else max(aggregate, -1e300),
            "hole": self.hole(prior, aggregate) if known else None,
            "missing": " ".join(missing) or None,
        }

    def log_prior(self, z: Tensor, row: Given) -> float:
        """Return log p(z) at a point [1, D] given the context of one datum, in nats.

        Raises:
            ValueError: if the point lies outside the support, or the model samples further sites.
        """
        model = row.pair[0]
        return score_model(model, self.coordinates.values(z), *row)[0].item()

    def log_aggregate(self, z: Tensor) -> Tensor:
        """Return log q(z) at points [B, D], [B] in float64, in nats.

        Raises:
            ValueError: if the guide has no density, as a Delta.
        """
        posterior, values = self._posterior, self.coordinates.values(z)
        nobody = torch.full((len(z),), -1, device=self.given.x.device)
        total: Tensor | None = None
        if any(site.dependent for site in posterior.sites):
            parts = (
                posterior.log_sums(values, nobody, *p)[:, 0] for p in self.given.passes(len(z))
            )
        else:
            parts = (
                posterior.log_q(trace, values)[..., 0].double().logsumexp(-1)
                for trace in self._traces
            )
        for part in parts:
            total = part if total is None else torch.logaddexp(total, part)
        if total is None:
            raise ValueError("there are no data")
        return (total - math.log(len(self.given))).cpu()

    @cached_property
    def _posterior(self) -> Posterior:
        guide = self.given.pair[1]
        return Posterior(guide, latent_sites(guide, *self.given.first(PROBED)), by_dimension=False)

    @cached_property
    def _traces(self) -> list[Any]:
        """The guide's traces of all data, whose distributions score every point."""
        return [drawn(self.given.pair[1], 1, *part) for part in self.given.passes(1)]

    def hole(self, prior: float, aggregate: float) -> str | None:
        """Return a sentence if a point is a hole, or if the prior is as thin there."""
        ratio, hole = aggregate - prior, math.log(Latents().hole)
        if ratio < hole:
            return (
                f"A hole: q(z) is below {Latents().hole:g} p(z), so the decoder was hardly "
                f"trained here. {self.share_in_holes:.0%} of the prior's draws lie in holes."
            )
        if -ratio < hole:
            return (
                f"The prior is thin here: p(z) is below {Latents().hole:g} q(z), as at "
                f"{self.share_outside:.0%} of the draws of the posteriors."
            )
        return None

    @cached_property
    def share_in_holes(self) -> float:
        """The share of the prior's draws at which q(z) < 0.05 p(z)."""
        return (self._ratios(self.prior) < math.log(Latents().hole)).double().mean().item()

    @cached_property
    def share_outside(self) -> float:
        """The share of the posteriors' draws at which p(z) < 0.05 q(z)."""
        return (-self._ratios(self.aggregate) < math.log(Latents().hole)).double().mean().item()

    def _ratios(self, draws: Draws) -> Tensor:
        """Return log q(z) - log p(z) at some of the draws, each given its datum's context."""
        some = slice(None, None, max(1, len(draws.z) // REFERENCE))
        z, rows = draws.z[some], draws.rows[some]
        log_prior = torch.tensor(
            [
                self.log_prior(point[None], self.given.rows(row[None]))
                for point, row in zip(z, rows, strict=True)
            ]
        )
        return self.log_aggregate(z) - log_prior
