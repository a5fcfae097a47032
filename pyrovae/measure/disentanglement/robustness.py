"""The interventional robustness score: does a unit stay when other factors change?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyrovae.measure.disentanglement.metric import Metric
from pyrovae.measure.disentanglement.pairs import Pairs

__all__ = ["InterventionalRobustness"]


@dataclass(frozen=True, kw_only=True)
class InterventionalRobustness(Metric):
    r"""Score how little a unit moves while its factor is fixed (Suter et al., 2019).

    $$ IRS_{jk} = 1 - \frac{E_{v_k} \max_{v_{-k}} |E[z_j | v] - E[z_j | v_k]|}
        {\max_v |E[z_j | v] - E[z_j]|} $$

    A unit's score is the greatest over factors k, and the result is the mean over units, weighted
    by their greatest deviation, the denominator. It is 1 if each unit is a function of one factor.

    The maximum is over the combinations of factors in the data, as in the paper;
    disentanglement_lib takes the 99th percentile, and does not average the data of one
    combination. A maximum over few data is small: noise scores about 0 if each value of each
    factor has many data, and more otherwise. Factors are taken to be independent. Constant units
    are left out. It is not defined for a single factor.

    References:
        Suter, Miladinovic, Schoelkopf, Bauer, 2019. Robustly Disentangled Causal Mechanisms.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> robustness = pv.measure.disentanglement.InterventionalRobustness()
        >>> round(robustness(factors.float(), factors).mean, 2)
        1.0
    """

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the weighted mean over units."""
        v, row, count = np.unique(pairs.v, axis=0, return_inverse=True, return_counts=True)
        z = np.zeros((len(v), len(pairs.units)))
        np.add.at(z, row.reshape(-1), pairs.z)
        z /= count[:, None]
        greatest = np.abs(z - np.average(z, axis=0, weights=count)).max(0)
        moved = np.zeros((len(pairs.units), len(pairs.factors)))
        for k, size in enumerate(pairs.sizes):
            for value in range(size):
                here = v[:, k] == value
                if here.any():
                    middle = np.average(z[here], axis=0, weights=count[here])
                    most = np.abs(z[here] - middle).max(0)
                    moved[:, k] += most * count[here].sum() / len(pairs)
        told = greatest > 0
        if not told.any() or len(pairs.factors) < 2:
            return {"interventional robustness": float("nan")}
        score = 1 - moved[told].min(1) / greatest[told]
        return {"interventional robustness": float(np.average(score, weights=greatest[told]))}
