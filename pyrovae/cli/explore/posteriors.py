"""The posteriors of all data in the coordinates of a view: means, scales, draws and KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.cli.explore.coordinates import Coordinates
from pyrovae.measure.latents.decode import Means
from pyrovae.measure.latents.sites import Values, drawn, latent_values
from pyrovae.randomness import seeded
from pyrovae.weights.given import Given
from pyrovae.weights.kl import pair_kl_by_dimension
from pyrovae.weights.sites import is_point_mass

__all__ = ["Draws", "Posteriors", "prior_draws"]


@dataclass(frozen=True)
class Draws:
    """Draws, each given the context of a datum.

    Attributes:
        z: the draws, [M, D].
        rows: the place of the datum of each, [M].
    """

    z: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Posteriors:
    """The posteriors of N data over D coordinates.

    Attributes:
        coordinates: the latent sites.
        z: the posterior means, each site's given the means of those before it, [N, D]. A site
            without a mean in closed form, such as a class, is a draw.
        scale: the standard deviations at these, [N, D]; NaN where they are not known.
        draws: one draw of each posterior, [N, D].
        kl: the KL of each coordinate in nats, averaged over the data, where it has a closed form.
    """

    coordinates: Coordinates
    z: Tensor
    scale: Tensor
    draws: Tensor
    kl: dict[str, float]

    @classmethod
    def of(cls, given: Given) -> Posteriors:
        """Compute the posteriors, data in passes.

        Raises:
            ValueError: if the guide samples no latent site.
        """
        guide = given.pair[1]
        coordinates = Coordinates.of(drawn(guide, 1, *given.first(2)))
        if not coordinates.places:
            raise ValueError(
                "the guide samples no latent site, so there is no latent space to show: add a "
                "pyro.sample statement to it"
            )
        pieces = []
        with seeded(0):
            for part in given.passes(1):
                with Means():
                    at_means = drawn(guide, 1, *part)
                means = coordinates.vectors(latent_values(at_means))
                draws = coordinates.vectors(latent_values(drawn(guide, 1, *part)))
                pieces.append((means, _scale(coordinates, at_means, means), draws))
            kl = _kl(given)
        z, scale, draws = (torch.cat(each).cpu() for each in zip(*pieces, strict=True))
        return cls(coordinates, z, scale, draws, kl)

    def some(self, number: int) -> Draws:
        """Return the draws of up to `number` data, which are evenly spread."""
        rows = _spread(len(self.draws), number)
        return Draws(self.draws[rows], rows)

    def order(self) -> list[int]:
        """Return the coordinates by KL, or by the variance of the means where KLs are missing."""
        activity = self.z.var(0, correction=0).tolist()
        if self.kl.keys() >= set(self.coordinates.names):
            weights = [self.kl[name] for name in self.coordinates.names]
        else:
            weights = activity
        return sorted(range(len(weights)), key=lambda j: -weights[j])


def _scale(coordinates: Coordinates, trace: Any, like: Tensor) -> Tensor:
    """Return the standard deviations of a trace's latent sites, [N, D]; NaN where not known."""
    found: Values = {}
    for place in coordinates.places:
        fn, value = trace.nodes[place.name]["fn"], trace.nodes[place.name]["value"]
        try:
            scale = fn.stddev.expand(value.shape)
        except (NotImplementedError, AttributeError, ValueError, RuntimeError):
            scale = torch.full(value.shape, math.nan, device=value.device)
        found[place.name] = scale.where(scale.isfinite(), math.nan)
    return coordinates.vectors(found).to(like)


def _kl(given: Given) -> dict[str, float]:
    """Return the mean KL of each dimension that has one in closed form, by name, in nats."""
    total: dict[str, Any] = {}
    try:
        for part in given.passes(1):
            pair = part.trace(1)
            for site, rates in pair_kl_by_dimension(pair).items():
                if not is_point_mass(pair.guide.nodes[site]):
                    total[site] = total.get(site, 0) + rates.double().sum(0)
    except ValueError:  # of programs that do not match, which the bounds explain
        return {}
    return {
        f"{site}[{j}]": rate / len(given)
        for site, rates in total.items()
        for j, rate in enumerate(rates.tolist())
    }


def _spread(data: int, number: int) -> Tensor:
    """Return the places of up to `number` data, evenly spread."""
    return torch.arange(0, data, max(1, math.ceil(data / number)))


def prior_draws(given: Given, coordinates: Coordinates, number: int) -> Draws:
    """Return draws of the prior, spread evenly over the contexts of the data.

    Raises:
        ValueError: if the model does not sample every site of the guide.
    """
    rows = _spread(len(given), number)
    each = math.ceil(number / len(rows))
    some = given.rows(rows)
    with seeded(0):
        values = latent_values(drawn(some.pair[0], each, *some))
    missing = [place.name for place in coordinates.places if place.name not in values]
    if missing:
        raise ValueError(f"the model does not sample {missing}, so they have no prior to draw")
    return Draws(coordinates.vectors(values).cpu()[:number], rows.repeat(each)[:number])
