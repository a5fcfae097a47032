r"""Write the prior and the aggregate posterior as data: mixtures of diagonal normals.

    log p(z) = log sum_c w_c N(z; m_c, diag s_c^2)

A mixture is written only if it gives the density of the programs at draws of both; what is no
such mixture is said to be missing.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.cli.explore.network import packed
from pyrovae.cli.explore.world import World
from pyrovae.measure.latents.sites import alike, drawn, score_model
from pyrovae.weights.families import innermost

__all__ = ["as_mixtures"]

CLOSE: Final = 1e-3
"""The largest error of a log-density in nats, beside a 1e-4 of it."""

Mixture = tuple[Tensor, Tensor, Tensor]
"""Log-weights [C], means [C, D] and standard deviations [C, D]."""


@torch.no_grad()
def as_mixtures(world: World) -> dict[str, Any]:
    """Return the two densities as a JSON value.

    Returns:
        "prior", a mixture or None; "aggregate", whether it is the mixture of the normals of all
        data, whose means and standard deviations the file has; "missing", sentences on what is
        not there.
    """
    points = torch.cat([world.prior[:4], world.posteriors.draws[:4], world.posteriors.z[:1]])
    prior, aggregate = _prior(world), _aggregate(world)
    row = world.given.first(1)

    def log_prior() -> Tensor:
        return torch.tensor([world.density_at.log_prior(z[None], row) for z in points])

    of_prior = prior is not None and _is(prior, points, log_prior)
    one_prior = not of_prior or _shared(world, points[[0, -1]])
    of_data = _is(aggregate, points, lambda: world.density_at.log_aggregate(points))
    missing = []
    if not of_prior:
        missing.append("The prior's density is not in this file: it is no mixture of normals.")
    if not one_prior:
        missing.append(
            "The prior's density is not in this file: it depends on the context of each datum."
        )
    if not of_data:
        missing.append(
            "The density of the aggregate posterior is not in this file: the posteriors are no "
            "diagonal normals."
        )
    return {
        "prior": _written(prior) if of_prior and one_prior and prior is not None else None,
        "aggregate": of_data,
        "missing": " ".join(missing) or None,
    }


def _is(mixture: Mixture, points: Tensor, density: Any) -> bool:
    """Return whether a mixture has the density at some points."""
    try:
        wanted = density()
    except ValueError:
        return False
    found = log_density(mixture, points)
    return bool(((found - wanted).abs() <= CLOSE + 1e-4 * wanted.abs()).all())


def _shared(world: World, points: Tensor) -> bool:
    """Return whether the prior at points [S, D] is the same for the contexts of all data."""
    given = world.given
    if not any(given.per_datum):
        return True
    values = world.posteriors.coordinates.values(points)
    first = None
    for part in given.passes(len(points)):
        wide = {name: v.expand(-1, len(part), *v.shape[2:]) for name, v in values.items()}
        found, _ = score_model(given.pair[0], wide, *part)
        first = found[:, :1] if first is None else first
        if not alike(found, first.expand_as(found)):
            return False
    return True


def log_density(mixture: Mixture, points: Tensor) -> Tensor:
    """Return the log-density of a mixture at points [S, D], in nats; NaN if a scale is unknown."""
    logits, loc, scale = (each.double() for each in mixture)
    far = (points.double()[:, None] - loc) / scale
    each = -0.5 * far.square() - scale.log() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(logits.log_softmax(0) + each.sum(-1), -1)


def _aggregate(world: World) -> Mixture:
    loc, scale = world.posteriors.z, world.posteriors.scale
    return torch.zeros(len(loc)), loc.float(), scale.float()


def _prior(world: World) -> Mixture | None:
    """Return the prior at the first datum as a mixture of normals, if its sites are normals."""
    try:
        trace = drawn(world.given.pair[0], 1, *world.given.first(1))
        fns = [trace.nodes[place.name]["fn"] for place in world.posteriors.coordinates.places]
    except (KeyError, ValueError):
        return None
    normals = [innermost(fn) for fn in fns]
    if all(isinstance(fn, td.Normal) for fn in normals):
        sizes = [place.size for place in world.posteriors.coordinates.places]
        pairs = [
            (_row(fn.loc, n), _row(fn.scale, n)) for fn, n in zip(normals, sizes, strict=True)
        ]
        loc, scale = (torch.cat(each, -1) for each in zip(*pairs, strict=True))
        return torch.zeros(1), loc, scale
    (first, *others) = normals
    if others or not all(hasattr(first, name) for name in ("logits", "loc", "scale")):
        return None
    logits, loc, scale = (getattr(first, name).cpu() for name in ("logits", "loc", "scale"))
    if loc.ndim < 2 or logits.shape[-1] != loc.shape[-2]:
        return None
    count, width = loc.shape[-2:]
    return (
        logits.reshape(-1, count)[0],
        loc.reshape(-1, count, width)[0],
        scale.reshape(-1, count, width)[0],
    )


def _row(value: Tensor, size: int) -> Tensor:
    """Return a parameter of one datum as [1, D]; one number stands for all D."""
    return value.cpu().reshape(1, -1).expand(1, size)


def _written(mixture: Mixture) -> dict[str, Any]:
    some = mixture[0] > -math.inf  # JSON has no infinity, and others weigh nothing
    logits, loc, scale = (np.asarray(each[some].float()) for each in mixture)
    return {"logits": logits.tolist(), "loc": packed(loc), "scale": packed(scale)}
