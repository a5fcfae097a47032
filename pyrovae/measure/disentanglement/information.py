r"""Entropies and mutual information of units and factors, in nats.

    I(z_j; v_k) = sum_{b, v} p(b, v) log (p(b, v) / (p(b) p(v)))

where b is the bin of z_j: `bins` intervals of equal width between its least and greatest value.
With `bins=None` it is estimated from distances to nearest neighbors, by scikit-learn. The binned
value is that of the empirical distribution; of independent variables it is not 0 but about
(B - 1)(K - 1) / 2N.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.measure.disentanglement.pairs import Codes, Pairs, Units, units_of

__all__ = [
    "BINS",
    "binned",
    "binned_information",
    "check_bins",
    "entropies",
    "information",
    "joint_counts",
    "mutual_information",
    "negated_entropy",
]

BINS: Final = 20
"""The number of bins of a unit (Locatello et al., 2019)."""

Numbers = NDArray[np.float64]


def binned(z: Units, bins: int) -> Codes:
    """Return the bin of each unit, [N, L]: of equal width from its least to its greatest value.

    A constant unit has a single bin.

    Raises:
        ValueError: for fewer than two bins.

    Example:
        >>> binned(np.array([[0.0], [0.4], [0.6], [1.0]]), 2).T
        array([[0, 0, 1, 1]])
    """
    check_bins(bins)
    least, width = z.min(0), np.ptp(z, axis=0)
    share = (z - least) / np.where(width > 0, width, 1.0)
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def check_bins(bins: int) -> None:
    """Check that there are at least two bins.

    Raises:
        ValueError: for fewer.
    """
    if not isinstance(bins, Integral) or bins < 2:
        raise ValueError(
            f"a unit needs two bins or more; got bins={bins}: give a whole number, 20, say"
        )


def joint_counts(bins_of: Codes, factor: Codes, bins: int, size: int) -> Codes:
    """Count each pair of a bin and a value, [L, bins, size]."""
    units = bins_of.shape[1]
    cells = (np.arange(units) * bins + bins_of) * size + factor[:, None]
    return np.bincount(cells.ravel(), minlength=units * bins * size).reshape(units, bins, size)


def negated_entropy(counts: Codes, axis: Any = -1) -> Numbers:
    r"""Return $\sum_i p_i \log p_i$ of counts along axes."""
    total = counts.sum(axis)
    terms = counts * np.log(np.maximum(counts, 1))
    return np.asarray(terms.sum(axis) / total - np.log(total))


def binned_information(bins_of: Codes, factor: Codes, bins: int, size: int) -> Numbers:
    """Return the mutual information of each binned unit with one factor, [L]."""
    counts = joint_counts(bins_of, factor, bins, size)
    apart = negated_entropy(counts.sum(2)) + negated_entropy(counts.sum(1))
    return np.maximum(negated_entropy(counts, (1, 2)) - apart, 0.0)


def entropies(pairs: Pairs) -> Numbers:
    """Return the entropy of each factor, [F]."""
    columns = zip(pairs.v.T, pairs.sizes, strict=True)
    return -np.array([negated_entropy(np.bincount(v, minlength=k)) for v, k in columns])


def information(pairs: Pairs, bins: int | None = BINS, *, seed: int = 0) -> Numbers:
    """Return the mutual information of each unit with each factor, [L, F].

    Args:
        pairs: the data.
        bins: the number of bins, or None for nearest neighbors.
        seed: of the tiny noise by which scikit-learn breaks ties between neighbors.
    """
    if bins is None:
        from sklearn.feature_selection import mutual_info_classif

        z, told = (
            pairs.standardized,
            pairs.varies,
        )  # of constants, scikit-learn would see its own noise
        found = [np.zeros(len(told)) for _ in pairs.factors]
        for nats, v in zip(found, pairs.v.T, strict=True):
            if told.any():
                nats[told] = mutual_info_classif(z[:, told], v, random_state=seed)
    else:
        bins_of = binned(pairs.z, bins)
        columns = zip(pairs.v.T, pairs.sizes, strict=True)
        found = [binned_information(bins_of, v, bins, k) for v, k in columns]
    return np.stack(found, axis=1)


def mutual_information(
    representation: Any,
    factors: Any,
    *,
    bins: int | None = BINS,
    continuous: bool = False,
    seed: int = 0,
) -> Tensor:
    """Estimate the mutual information of each unit with each factor, in nats, [L, F].

    Args:
        representation: numbers [N, L], as of `assign`.
        factors: values from finite sets [N, F], as of `assign`.
        bins: the number of bins of a unit, of equal width; None for the three nearest neighbors
            (Ross, 2014; of continuous factors, Kraskov et al., 2004).
        continuous: whether factors are real numbers, which are then binned as the units are.
        seed: of the tiny noise by which scikit-learn breaks ties between neighbors.

    Raises:
        ValueError: as `assign`.

    References:
        Kraskov, Stoegbauer, Grassberger, 2004. Estimating Mutual Information.
        Ross, 2014. Mutual Information between Discrete and Continuous Data Sets.

    Example:
        >>> import torch
        >>> from pyrovae.measure.disentanglement import mutual_information
        >>> sign = torch.tensor([0, 1] * 50)
        >>> mutual_information(sign + 0.0, sign)  # log 2
        tensor([[0.6931]], dtype=torch.float64)
    """
    if not continuous:
        found = information(Pairs.of(representation, factors), bins, seed=seed)
        return torch.from_numpy(found)
    _, z = units_of(representation, None)
    _, v = units_of(factors, None)
    if len(z) != len(v):
        raise ValueError(
            f"the representation has {len(z):,} rows and the factors have {len(v):,}: give both "
            "of the same data, in the same order"
        )
    if bins is not None:
        coded = Pairs(("",) * z.shape[1], ("",) * v.shape[1], z, binned(v, bins))
        return torch.from_numpy(information(coded, bins))
    return torch.from_numpy(_of_neighbors(z, v, seed))


def _of_neighbors(z: Units, v: Units, seed: int) -> Numbers:
    """Return the information of units about continuous factors by nearest neighbors, [L, F].

    Both are standardized: the noise that scikit-learn adds grows with their offset, and of
    constants it would see that noise alone.
    """
    from sklearn.feature_selection import mutual_info_regression

    nothing = np.zeros((len(z), 0), np.int64)
    units, factors = (Pairs(("",) * each.shape[1], (), each, nothing) for each in (z, v))
    found = np.zeros((z.shape[1], v.shape[1]))
    told = np.flatnonzero(units.varies)
    for k in np.flatnonzero(factors.varies) if len(told) else ():
        each = factors.standardized[:, k]
        found[told, k] = mutual_info_regression(
            units.standardized[:, told], each, random_state=seed
        )
    return found
