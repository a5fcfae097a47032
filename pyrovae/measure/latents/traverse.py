"""Latent traversals: decoder means along one latent dimension at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.measure.latents.active_units import PROBED, active_units, check_several
from pyrovae.measure.latents.sites import (
    Values,
    drawn,
    flat,
    latent_sites,
    latent_values,
)
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.families import known_mean
from pyrovae.weights.given import Given
from pyrovae.weights.sites import mean_of
from pyrovae.weights.target import Resolved

__all__ = ["Traversal", "traverse"]

QUANTILES: Final = (0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99)
"""The default quantiles of the aggregate posterior."""

MOST: Final = 10
"""The number of dimensions to traverse by default."""


@dataclass(frozen=True)
class Traversal:
    """The means of p(x | z) along some latent dimensions.

    Attributes:
        names: the names of the R dimensions.
        quantiles: the S quantile levels, between 0 and 1.
        values: the value of each dimension at each quantile, [R, S].
        means: the means of p(x | z), [R, S, width of x].
    """

    names: tuple[str, ...]
    quantiles: tuple[float, ...]
    values: Tensor
    means: Tensor


@torch.no_grad()
def traverse(
    vae: VAE,
    x: Tensor,
    *context: ContextValue,
    datum: int = 0,
    dimensions: Sequence[str] | None = None,
    quantiles: Sequence[float] = QUANTILES,
) -> Traversal:
    """Decode latents that vary one dimension through quantiles of the aggregate posterior.

    The other dimensions and sites are fixed at the posterior mean of one datum, or at a posterior
    draw where the mean has no closed form. The quantiles are of one draw per datum.

    Args:
        vae: the VAE.
        x: the data of the aggregate posterior, [N, ...].
        *context: further arguments of the programs.
        datum: the row of x at whose latents the other dimensions are fixed.
        dimensions: names such as ["z[0]", "z[3]"]; by default the ten most active dimensions.
        quantiles: quantile levels between 0 and 1.

    Raises:
        ValueError: if the row, a dimension or a quantile level does not exist; and as
            `active_units`.
        UndefinedMean: if p(x | z) has no mean, as a distribution over classes has none.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> found = pv.traverse(vae, torch.rand(20, 64).round(), dimensions=["z[1]"])
        >>> found.means.shape
        torch.Size([1, 9, 64])
    """
    resolved = Resolved.of(vae)
    given = resolved.given(x, *context)
    x, *context = given  # type: ignore[assignment]
    check_several(given)
    if not 0 <= datum < len(x) or not all(0 <= share <= 1 for share in quantiles):
        raise ValueError(
            f"expected a datum from 0 to {len(x) - 1} and quantiles between 0 and 1; got "
            f"datum={datum}, quantiles={list(quantiles)}: choose a row of x and valid levels"
        )
    with resolved.evaluating():
        places = {
            name: (site.name, j)
            for site in latent_sites(vae.guide, *given.first(PROBED))
            if not site.discrete
            for j, name in enumerate(site.names)
        }
        names = tuple(dimensions or _most_active(vae, x, *context))
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(f"there are no dimensions {unknown}: choose from {list(places)}")
        steps = _steps(vae, quantiles, given)
        row = given.rows(slice(datum, datum + 1))
        with Means():
            fixed = latent_values(drawn(vae.guide, 1, *row))
        values = torch.stack([steps[places[name][0]][:, places[name][1]] for name in names])
        walks = [
            _walk(fixed, *places[name], along) for name, along in zip(names, values, strict=True)
        ]
        means = torch.stack([_decoded(vae, walk, *row.context) for walk in walks])
    return Traversal(names, tuple(quantiles), values, means)


class Means(Messenger):
    """Set each continuous latent to its mean, where that has a closed form."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["fn"].support.is_discrete:
            return
        mean = known_mean(msg["fn"])
        if mean is not None:
            msg["value"], msg["done"] = mean, True


def _most_active(vae: VAE, x: Tensor, *context: ContextValue) -> list[str]:
    """Return the names of the most active dimensions."""
    activity = active_units(vae, x, *context)
    return [activity.names[j] for j in activity.order[:MOST]]


def _steps(vae: VAE, quantiles: Sequence[float], given: Given) -> dict[str, Tensor]:
    """Return quantiles of the aggregate posterior by site, [S, D], from one draw per datum."""
    pieces = [latent_values(drawn(vae.guide, 1, *part)) for part in given.passes(1)]
    shares = torch.as_tensor(list(quantiles), device=given.x.device)
    found = {}
    for name in pieces[0]:
        draws = torch.cat([flat(piece[name])[0] for piece in pieces])
        found[name] = draws.double().quantile(shares.double(), 0).to(draws)
    return found


def _walk(fixed: Values, site: str, column: int, along: Tensor) -> Values:
    """Repeat a datum's latents for each step, with one dimension set to the values `along`."""
    walk = {
        name: value.expand(len(along), *value.shape[1:]).clone() for name, value in fixed.items()
    }
    flat(walk[site])[:, 0, column] = along
    return walk


def _decoded(vae: VAE, walk: Values, *context: ContextValue) -> Tensor:
    """Return the mean of p(x | z) at each step, [S, width of x]."""
    steps = len(next(iter(walk.values())))

    def generate(*context: ContextValue) -> Any:
        return vae.model(None, *context, size=1)

    return mean_of(drawn(generate, steps, *context, given=walk).nodes["x"]["fn"])[:, 0]
