"""Latent traversals: decoder means along one latent dimension at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from pyrovae.measure.latents.active_units import active_units, check_several
from pyrovae.measure.latents.advice import Advised
from pyrovae.measure.latents.decode import decode_means, mean_latents, repeated
from pyrovae.measure.latents.quantiles import aggregate_quantiles, normal_levels, prior_quantiles
from pyrovae.measure.latents.sites import Values, continuous, drawn, flat, latent_values
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.given import Given
from pyrovae.weights.kl import pair_kl_by_dimension
from pyrovae.weights.sites import is_point_mass
from pyrovae.weights.target import Resolved

__all__ = ["MOST", "Of", "Traversal", "traverse"]

Of = Literal["aggregate", "prior"]

LEVELS: Final = {
    "aggregate": (0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99),
    "prior": normal_levels(13),
}
"""The default levels: those of a prior take a standard normal one from -3 to 3 in halves."""

MOST: Final = 10
"""The number of dimensions to traverse by default."""

PROBED: Final = 2
"""The number of data on which the guide's sites are listed."""


@dataclass(frozen=True)
class Traversal:
    """The means of p(x | z) along some latent dimensions.

    Attributes:
        names: the names of the R dimensions.
        quantiles: the S quantile levels, between 0 and 1.
        values: the value of each dimension at each quantile, [R, S].
        means: the means of p(x | z), [R, S, ...].
        kl: the KL divergence of each dimension in nats, averaged over the data, [R]; NaN where it
            has no closed form.
        of: whose quantiles they are, "aggregate" or "prior".
        order: what the dimensions are sorted by, "KL" or "activity"; "given" if they were named.
    """

    names: tuple[str, ...]
    quantiles: tuple[float, ...]
    values: Tensor
    means: Tensor
    kl: Tensor
    of: Of
    order: Literal["KL", "activity", "given"]


@torch.no_grad()
def traverse(
    vae: VAE,
    x: Tensor,
    *context: ContextValue,
    datum: int = 0,
    dimensions: int | Sequence[str] = MOST,
    of: Of = "aggregate",
    quantiles: Sequence[float] | None = None,
) -> Traversal:
    """Decode latents that vary one dimension through quantiles of q(z) or of the prior.

    The other dimensions and sites are fixed at the posterior mean of one datum, or at a posterior
    draw where the mean has no closed form. Quantiles of the aggregate posterior are of one draw
    per datum. Those of the prior are given the context of that datum, and exact if torch has the
    inverse distribution function; else they are of 65,536 draws.

    Args:
        vae: the VAE.
        x: the data of the aggregate posterior and of the KL, [N, ...].
        *context: further arguments of the programs.
        datum: the row of x at whose latents the other dimensions are fixed.
        dimensions: names such as ["z[0]", "z[3]"], or how many, in descending order of their KL.
            If not all have a KL in closed form, they are sorted by activity, the variance of
            their posterior means.
        of: "prior" for a walk through the prior, "aggregate" for what the decoder was trained on.
        quantiles: quantile levels between 0 and 1. By default nine from 0.01 to 0.99 of the
            aggregate posterior; of the prior, the 13 at which a standard normal is -3, -2.5, ...,
            3.

    Raises:
        ValueError: if all latents are discrete, if the row, a dimension or a quantile level does
            not exist, if a dimension cannot be moved alone (as on a sphere); and as
            `active_units`.
        UndefinedMean: if p(x | z) has no mean, as a distribution over classes has none.

    References:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner, 2017. beta-VAE.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> x = torch.rand(20, 64).round()
        >>> pv.traverse(vae, x, dimensions=["z[1]"]).means.shape
        torch.Size([1, 9, 64])
        >>> walk = pv.traverse(vae, x, of="prior")
        >>> walk.values[0, ::6]
        tensor([-3.0000,  0.0000,  3.0000])
    """
    if of not in LEVELS:
        raise ValueError(f'quantiles are of="prior" or of="aggregate"; got of={of!r}')
    levels = tuple(LEVELS[of] if quantiles is None else quantiles)
    resolved = Resolved.of(vae)
    given = resolved.given(x, *context)
    check_several(given)
    _check(len(given), datum, levels, of)
    with resolved.evaluating():
        places = _places(vae, given)
        names, order, kl = _chosen(vae, dimensions, places, given)
        row = given.rows(slice(datum, datum + 1))
        if of == "prior":
            steps = prior_quantiles(vae, levels, row)
        else:
            steps = aggregate_quantiles(vae.guide, levels, given)
        values = torch.stack([steps[places[name][0]][:, places[name][1]] for name in names])
        fixed = mean_latents(vae, row)
        walks = [
            _walk(fixed, *places[name], along) for name, along in zip(names, values, strict=True)
        ]
        means = torch.stack([decode_means(vae, walk, *row.context) for walk in walks])
    kls = torch.tensor([kl.get(name, math.nan) for name in names])
    return Traversal(names, levels, values, means, kls, of, order)


def _check(size: int, datum: int, levels: Sequence[float], of: Of) -> None:
    if not 0 <= datum < size:
        raise Advised(
            f"the walk starts at a row of x, from 0 to {size - 1:,}; got datum={datum}",
            python="choose another datum",
            options="choose another --datum",
        )
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise ValueError(
            f"expected quantile levels between 0 and 1; got quantiles={list(levels)}: choose "
            "such as [0.1, 0.5, 0.9]"
        )
    if of == "prior" and not all(0 < level < 1 for level in levels):
        raise ValueError(
            f"the quantiles 0 and 1 of a prior can be infinite; got {list(levels)}: choose levels "
            "between them, such as 0.001 and 0.999"
        )


def _places(vae: VAE, given: Given) -> dict[str, tuple[str, int]]:
    """Return the site and the column of each continuous dimension, by name.

    Raises:
        ValueError: if there is none.
    """
    trace = drawn(vae.guide, 1, *given.first(PROBED))
    found = continuous(trace)
    if not found:
        raise Advised(
            f"all latents are discrete, the sites {list(latent_values(trace))}, and have no "
            "quantiles to walk along",
            python="decode each class with vae.decode(z)",
            options="`pyrovae sample` shows what the model makes of them",
        )
    return found


def _chosen(
    vae: VAE,
    dimensions: int | Sequence[str],
    places: dict[str, tuple[str, int]],
    given: Given,
) -> tuple[tuple[str, ...], Any, dict[str, float]]:
    """Return the dimensions to walk along, what they are sorted by, and the KL of each."""
    kl = _kl(vae, given)
    if not isinstance(dimensions, int):
        names = (dimensions,) if isinstance(dimensions, str) else tuple(dimensions)
        unknown = [name for name in names if name not in places]
        if unknown or not names:
            raise ValueError(
                f"there are no dimensions {unknown}: choose from {list(places)}"
                if unknown
                else f"expected at least one dimension; got none: choose from {list(places)}"
            )
        return names, "given", kl
    if dimensions < 1:
        raise ValueError(f"expected at least one dimension; got {dimensions}")
    if kl.keys() >= places.keys():
        ordered = sorted(places, key=lambda name: -kl[name])
        return tuple(ordered[:dimensions]), "KL", kl
    activity = active_units(vae, *given)
    return tuple(activity.names[j] for j in activity.order[:dimensions]), "activity", kl


def _kl(vae: VAE, given: Given) -> dict[str, float]:
    """Return the mean KL of each dimension that has one in closed form, by name, in nats."""
    total: dict[str, Tensor] = {}
    for part in given.passes(1):
        pair = part.trace(1)
        for site, rates in pair_kl_by_dimension(pair).items():
            if not is_point_mass(pair.guide.nodes[site]):
                total[site] = total.get(site, 0) + rates.double().sum(0)
    return {
        f"{site}[{j}]": value / len(given)
        for site, rates in total.items()
        for j, value in enumerate(rates.tolist())
    }


def _walk(fixed: Values, site: str, column: int, along: Tensor) -> Values:
    """Repeat a datum's latents for each step, with one dimension set to the values `along`."""
    walk = repeated(fixed, len(along))
    flat(walk[site])[:, 0, column] = along
    return walk
