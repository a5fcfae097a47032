r"""The manifold that a decoder learned: the means of p(x | z) over a plane of the prior.

    z = (F_1^{-1}(u_1), F_2^{-1}(u_2)),    u on a regular grid of the unit square

F_j is the distribution function of the prior, so each mean stands for an equal share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.measure.latents.advice import Advised
from pyrovae.measure.latents.decode import decode_means, prior_program, repeated
from pyrovae.measure.latents.quantiles import prior_quantiles
from pyrovae.measure.latents.sites import continuous, drawn, flat, latent_values
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved, placed

__all__ = ["Manifold", "manifold"]


@dataclass(frozen=True)
class Manifold:
    """The means of p(x | z) on a grid over two latent dimensions.

    Attributes:
        names: the names of the two dimensions.
        levels: the S quantile levels of the grid, in both directions.
        grid: the coordinates of the grid points in each dimension, [2, S].
        means: the means of p(x | z), [S, S, ...]; the first index runs along the first dimension.
    """

    names: tuple[str, str]
    levels: tuple[float, ...]
    grid: Tensor
    means: Tensor


@torch.no_grad()
def manifold(
    vae: VAE,
    *context: ContextValue,
    side: int = 20,
    dimensions: Sequence[str] | None = None,
) -> Manifold:
    r"""Decode a grid over two latent dimensions at the quantiles of the prior.

    The levels are $(i + \tfrac12) / S$, so each point is the middle of an equal share of the
    prior, if its two dimensions are independent. Quantiles are as of `traverse`.

    Args:
        vae: the VAE.
        *context: further arguments of the prior and the likelihood, of one datum, [1, ...].
        side: the number S of points in each direction.
        dimensions: the names of two, such as ("z[0]", "z[3]"). Other dimensions are fixed at the
            median of the prior. By default the two of a VAE that has two.

    Raises:
        ValueError: if the VAE has another number of continuous dimensions and none are named, if
            a dimension does not exist or cannot be moved alone, or `side` is below 2.
        UndefinedMean: if p(x | z) has no mean.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes, figure 4.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.manifold(vae, side=5)
        >>> found.means.shape, found.grid[0]
        (torch.Size([5, 5, 64]), tensor([-1.2816, -0.5244,  0.0000,  0.5244,  1.2816]))
    """
    if side < 2:
        raise ValueError(f"a manifold has at least two points in each direction; got side={side}")
    levels = tuple(((torch.arange(side, dtype=torch.float64) + 0.5) / side).tolist())
    rows = placed(vae, torch.zeros(1), *context)
    given = Given(rows[0], tuple(rows[1:]), settled=(False,) * len(context))
    with Resolved.of(vae).evaluating():
        program = prior_program(vae)
        trace = drawn(program, 1, *given)
        places = continuous(trace)
        names = _two(dimensions, list(places))
        quantiles = prior_quantiles(vae, [*levels, 0.5], given)
        grid = torch.stack([quantiles[places[name][0]][:-1, places[name][1]] for name in names])
        middle = {
            site: quantiles[site][-1].reshape(value.shape) if site in quantiles else value
            for site, value in latent_values(trace).items()
        }
        latents = repeated(middle, side * side)
        for name, points in zip(names, torch.cartesian_prod(*grid).T, strict=True):
            site, column = places[name]
            flat(latents[site])[:, 0, column] = points
        means = decode_means(vae, latents, *given.context)
    return Manifold(names, levels, grid, means.reshape(side, side, *means.shape[1:]))


def _two(dimensions: Sequence[str] | None, known: list[str]) -> tuple[str, str]:
    """Return the names of the two dimensions."""
    names = known if dimensions is None else list(dimensions)
    if dimensions is None and len(known) != 2:
        few = len(known) < 2
        raise Advised(
            f"a manifold is over two latent dimensions; the VAE has {len(known)} continuous ones, "
            f"{known}",
            python="it needs two" if few else f"name two, dimensions={(*known[:2],)}",
            options="" if few else f"name two, --dimensions {' '.join(known[:2])}",
        )
    if len(names) != 2 or names[0] == names[1] or not {*names} <= {*known}:
        raise ValueError(f"expected two dimensions of {known}; got {names}: name two of these")
    return names[0], names[1]
