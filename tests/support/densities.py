"""Hold a distribution in one or two dimensions against the integral of its own density.

The grid is even in s where z = sinh(s), so that it reaches out to the heaviest tails.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

FALSE_ALARM = 1e-4
Density = Callable[[Tensor], Tensor]


def grid(latents: int, points: int = 801) -> tuple[Tensor, Tensor]:
    """Return points [P, D] and the volume [P] that each stands for."""
    s = torch.linspace(-12.0, 12.0, points, dtype=torch.float64)
    axis, width = s.sinh(), s.cosh() * (s[1] - s[0])
    axes, widths = [axis] * latents, [width] * latents
    z = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, latents)
    volume = torch.stack(torch.meshgrid(*widths, indexing="ij"), -1).prod(-1).flatten()
    return z, volume


def integral(log_density: Density, latents: int, of: Density | None = None) -> float:
    """Integrate a density, or the expectation of a function of z [P, D] under it."""
    z, volume = grid(latents)
    mass = log_density(z).exp() * volume
    # Far out the density underflows to 0 while a logarithm is infinite: no mass, no term.
    return float(mass.sum() if of is None else torch.where(mass > 0, mass * of(z), 0.0).sum())


def p_value(log_density: Density, draws: Tensor) -> float:
    """Return the p-value of Pearson's test of draws [N, D] against the density, in 8^D cells.

    The cells are cut half-way between points of the grid, at about the eighths of each
    coordinate; those that expect fewer than 5 draws are put together.
    """
    latents = draws.shape[-1]
    z, volume = (values.numpy() for values in grid(latents))
    mass = (log_density(torch.from_numpy(z)).exp().numpy() * volume).astype(np.float64)
    edges = [_eighths(z[:, d], mass) for d in range(latents)]
    expected = _counts(z, edges, mass) * len(draws) / mass.sum()
    observed = _counts(draws.double().numpy(), edges, np.ones(len(draws)))
    few = expected < 5
    if few.any():
        expected = np.append(expected[~few], expected[few].sum())
        observed = np.append(observed[~few], observed[few].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def _eighths(z: np.ndarray, mass: np.ndarray) -> np.ndarray:
    axis, place = np.unique(z, return_inverse=True)
    cumulated = np.bincount(place, weights=mass).cumsum()
    found = np.searchsorted(cumulated / cumulated[-1], np.arange(1, 8) / 8)
    return (axis[found] + axis[found + 1]) / 2


def _counts(z: np.ndarray, edges: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    cells = [np.searchsorted(edge, z[:, d]) for d, edge in enumerate(edges)]
    index = np.ravel_multi_index(cells, [8] * len(edges))
    return np.bincount(index, weights=weight, minlength=8 ** len(edges))
