r"""Quantiles of each latent dimension, of the prior p(z) or of the aggregate posterior q(z).

    z_j(u) = F_j^{-1}(u),    F_j the distribution function of dimension j

They say where to look at a decoder. Those of the prior are what a sample of the model meets; those
of the aggregate posterior, what the decoder was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pyrovae.measure.latents.decode import prior_program, prior_sites
from pyrovae.measure.latents.sites import (
    Values,
    continuous,
    drawn,
    flat,
    latent_values,
    marginals,
)
from pyrovae.randomness import seeded
from pyrovae.types import Program
from pyrovae.vae import VAE
from pyrovae.weights.given import Given

__all__ = ["aggregate_quantiles", "normal_levels", "prior_quantiles"]

DRAWS: Final = 2**16
"""The draws that estimate the quantiles of a prior whose distribution function is not known."""

PASS: Final = 2**13
"""The draws of the prior in one pass."""


def normal_levels(steps: int, *, most: float = 3.0) -> tuple[float, ...]:
    """Return the levels at which a standard normal has equally spaced quantiles.

    Args:
        steps: the number of levels.
        most: the last quantile; the first is its negative.

    Example:
        >>> [round(level, 5) for level in normal_levels(3)]
        [0.00135, 0.5, 0.99865]
    """
    points = torch.linspace(-most, most, steps, dtype=torch.float64)
    return tuple(torch.special.ndtr(points).tolist())


def aggregate_quantiles(guide: Program, levels: Sequence[float], given: Given) -> Values:
    """Return quantiles of the aggregate posterior by site, [S, D], from one draw per datum."""
    pieces = [latent_values(drawn(guide, 1, *part)) for part in given.passes(1)]
    return {
        name: _empirical(torch.cat([flat(piece[name])[0] for piece in pieces]), levels)
        for name in pieces[0]
    }


def prior_quantiles(vae: VAE, levels: Sequence[float], given: Given) -> Values:
    """Return quantiles of the prior by continuous site, [S, D], given the first datum's context.

    They are exact where a site depends on no other site and its distribution has univariate
    marginals with an inverse distribution function in torch. Others are empirical, of 65,536
    draws with a fixed seed: those of a hierarchy's lower levels are of the marginal distribution.
    """
    program, row = prior_program(vae), given.rows(slice(1))
    inner = drawn(program, 1, *row)
    names = {site for site, _ in continuous(inner).values()}
    free = {site.name for site in prior_sites(vae, row) if site.separable}
    exact = {name: _inverse(inner.nodes[name]["fn"], levels) for name in names & free}
    found = {name: value for name, value in exact.items() if value is not None}
    rest = [name for name in names if name not in found]
    return found | (_sampled(program, rest, levels, row) if rest else {})


def _inverse(fn: Any, levels: Sequence[float]) -> Tensor | None:
    """Return the inverse distribution functions at the levels, [S, D]; None if not known."""
    each = marginals(fn)
    like = fn.sample()
    shares = torch.as_tensor(levels, dtype=like.dtype, device=like.device)
    try:
        found: Tensor = each.icdf(shares.reshape(-1, *[1] * len(each.batch_shape)))
    except NotImplementedError:
        return None
    return found.reshape(len(levels), -1)


def _sampled(
    program: Program, names: Sequence[str], levels: Sequence[float], row: Given
) -> Values:
    with seeded(0):
        pieces = [latent_values(drawn(program, PASS, *row)) for _ in range(DRAWS // PASS)]
    return {
        name: _empirical(torch.cat([flat(piece[name])[:, 0] for piece in pieces]), levels)
        for name in names
    }


def _empirical(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the quantiles of draws [M, D] in each dimension, [S, D]."""
    # NumPy's has no limit on the number of values, as torch's has.
    found = np.quantile(draws.double().cpu().numpy(), list(levels), axis=0)
    return torch.as_tensor(found).to(draws)
