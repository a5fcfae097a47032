r"""Assign factors to units: which unit of a representation holds which factor.

    I*(z_j; v_k) = H(v_k) (I - E I) / (H(v_k) - E I)        in nats, from 0 to H(v_k)

where I is the binned mutual information of unit j and factor k, and E I its mean if the rows of
the factor are permuted, so that unit and factor are independent. This is the adjusted mutual
information of Vinh et al. (2010), in nats: it is 0 on average for noise, and H(v_k) for a unit
that determines the factor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch

from pyrovae.measure.disentanglement.assignment import LOST, Assignment
from pyrovae.measure.disentanglement.information import (
    BINS,
    binned,
    binned_information,
    check_bins,
    entropies,
)
from pyrovae.measure.disentanglement.metric import LIMIT
from pyrovae.measure.disentanglement.pairs import Codes, Pairs, Units

__all__ = ["assign"]

PERMUTATIONS: Final = 100
"""The number of permutations of a factor that give the chance level."""

HALVES: Final = 20
"""The number of halves of the data that give the errors."""

NEIGHBORS: Final = 10
PRIOR: Final = 5
"""The number of neighbors that a factor's frequencies count for; ours."""


def assign(
    representation: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    bins: int = BINS,
    limit: int | None = LIMIT,
) -> Assignment:
    """Find which unit of a representation holds which factor, in nats.

    A factor is held by each unit with at least half as much information about it as the best unit
    has; by one unit, or shared by several. It is lost if no unit has 10% of its entropy; but if
    the 10 nearest neighbors in all units together tell 10% of it, it is spread. These thresholds
    are ours. Information that does not exceed that of 100 permutations of the factor, at all
    units, counts as none.

    The scale of a unit is ignored: one that hardly varies counts as any other, so leave out the
    units whose posterior is the prior. Outliers are moved to the next datum, as bins are of equal
    width.

    Args:
        representation: the units of N data, numbers [N, L], such as posterior means; or [N]. A
            tensor, an array or a frame.
        factors: what the data were made of, [N, F] or [N]: whole numbers, booleans or words. A
            tensor, an array or a frame.
        names: the names of the factors; by default a frame's own, or "factor 0", ...
        units: the names of the units; by default a frame's own, or "z[0]", ...
        bins: the number of bins of equal width that a unit is divided into, or the number of a
            factor's values if that is greater.
        limit: the largest number of data, drawn at random; None for all.

    Returns:
        The information of each unit about each factor, and the verdict for each factor.

    Raises:
        ValueError: if the representation is not numeric or not [N, L], there are fewer than two
            data or more units than data, or the two differ in length; if a value is missing or
            infinite; if a factor has a single value, also among `limit` data, has more values than
            half the data, or holds numbers that are not whole, or neither numbers nor words; if
            names do not fit; if there are fewer than two bins; or if `limit` is no whole number of
            two or more.

    References:
        Vinh, Epps, Bailey, 2010. Information Theoretic Measures for Clusterings Comparison.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(3, (500, 2))
        >>> noise = torch.randn(500, 1)
        >>> found = pv.assign(torch.cat([noise, factors], 1), factors, names=["color", "shape"])
        >>> found.held
        {'z[1]': 'color', 'z[2]': 'shape'}
        >>> found.verdict[0]
        'Each of the 2 factors is in a unit of its own.'
    """
    pairs = Pairs.of(representation, factors, names=names, units=units)
    check_bins(bins)
    generator = np.random.default_rng(0)
    pairs = pairs.limited(limit, generator)
    z = _clipped(pairs.z / np.maximum(np.abs(pairs.z).max(0), np.finfo(float).tiny))
    columns = [
        _of_factor(z, v, max(bins, size), generator)
        for v, size in zip(pairs.v.T, pairs.sizes, strict=True)
    ]
    nats, errors = (
        torch.from_numpy(np.stack(each, axis=1)) for each in zip(*columns, strict=True)
    )
    entropy = torch.from_numpy(entropies(pairs))
    alone = (nats / entropy).max(0).values >= LOST
    spread = [
        name
        for name, v, found in zip(pairs.factors, pairs.v.T, alone.tolist(), strict=True)
        if not found and _told_together(pairs, v)
    ]
    return Assignment(
        units=pairs.units,
        factors=pairs.factors,
        information=nats,
        error=errors,
        entropy=entropy,
        spread=tuple(spread),
        data=len(pairs),
        bins=bins,
        together=tuple(_together(pairs, entropy.tolist())),
    )


def _together(pairs: Pairs, entropy: Sequence[float]) -> Iterator[tuple[str, str, float]]:
    """Yield the pairs of factors that share at least 10% of the lesser entropy, in nats.

    The bias of independent factors, (K - 1)(K' - 1) / 2N, is subtracted.
    """
    for a, b in itertools.combinations(range(len(pairs.factors)), 2):
        sizes = pairs.sizes[a], pairs.sizes[b]
        (plain,) = binned_information(pairs.v[:, [a]], pairs.v[:, b], *sizes)
        nats = float(plain - (sizes[0] - 1) * (sizes[1] - 1) / (2 * len(pairs)))
        if nats >= LOST * min(entropy[a], entropy[b]):
            yield pairs.factors[a], pairs.factors[b], nats


def _of_factor(
    z: Units, factor: Codes, bins: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the adjusted information of each unit about one factor and its error, [L] each."""
    size, count = int(factor.max()) + 1, len(factor)
    bins_of = binned(z, bins)
    entropy = binned_information(factor[:, None], factor, size, size)
    permuted = np.stack(
        [
            binned_information(bins_of, generator.permutation(factor), bins, size)
            for _ in range(PERMUTATIONS)
        ]
    )
    chance = permuted.mean(0)
    found = binned_information(bins_of, factor, bins, size)
    halves = []
    for _ in range(HALVES):
        rows = generator.permutation(count)[: count // 2]
        halves.append(binned_information(bins_of[rows], factor[rows], bins, size))
    room = entropy - chance
    scale = np.where(room > 0, entropy / np.where(room > 0, room, 1.0), np.nan)
    information = np.where(found > permuted.max(), _adjusted(found, chance, entropy), 0.0)
    return information, scale * np.std(halves, axis=0, ddof=1)


def _adjusted(found: np.ndarray, chance: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Scale information so that chance is 0 and the factor's entropy is itself."""
    room = entropy - chance
    share = (found - chance) / np.where(room > 0, room, 1.0)
    return np.where(room > 0, entropy * share.clip(0.0, 1.0), 0.0)


def _told_together(pairs: Pairs, factor: Codes) -> bool:
    r"""Return whether the nearest neighbors in all units have information about a factor.

    A datum's neighbors predict its value with the probability $p = (n + c \pi) / (K + c)$, where n
    of the K neighbors share it and $\pi$ is its frequency. The mean of $\log p / \pi$ is at most
    the mutual information, up to sampling error, as the datum itself is left out; it is negative
    for noise.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(pairs) < 10 * NEIGHBORS:
        return False
    fitted = NearestNeighbors(n_neighbors=NEIGHBORS).fit(pairs.standardized)
    alike = (factor[fitted.kneighbors(return_distance=False)] == factor[:, None]).sum(1)
    often = np.bincount(factor)[factor] / len(factor)
    nats = np.log((alike + PRIOR * often) / (NEIGHBORS + PRIOR) / often)
    error = nats.std(ddof=1) / np.sqrt(len(nats))
    return bool(nats.mean() > 3 * error and nats.mean() >= LOST * -np.log(often).mean())


def _clipped(z: Units) -> Units:
    """Clip outliers, which would leave the other data in one bin of equal width.

    They lie further from the central 99.8% of a unit, or from all data but its least and its
    greatest, than these are wide. They move to the last datum that is none.
    """
    ordered = np.sort(z, axis=0)
    cut = 1 + len(z) // 1000
    if len(z) < 4 * cut:
        return z
    low, high = ordered[cut], ordered[-1 - cut]
    width = high - low
    inside = (width == 0) | ((ordered >= low - width) & (ordered <= high + width))
    least = np.where(inside, ordered, np.inf).min(0)
    return np.clip(z, least, np.where(inside, ordered, -np.inf).max(0))
