"""Modularity: does each unit hold one factor?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyrovae.measure.disentanglement.information import BINS, information
from pyrovae.measure.disentanglement.metric import Metric
from pyrovae.measure.disentanglement.pairs import Pairs

__all__ = ["Modularity"]


@dataclass(frozen=True, kw_only=True)
class Modularity(Metric):
    r"""Score whether each unit depends on at most one factor (Ridgeway, Mozer, 2018).

    $$ 1 - \frac{\sum_{k \neq k^*} m_{jk}^2}{m_{jk^*}^2 (F - 1)} $$

    averaged over units, where $m_{jk}$ is the mutual information of unit j and factor k, and
    $k^*$ the factor of which j knows most. It is 1 if each unit depends on one factor, and 0 if on
    all alike. A factor may be in several units.

    The binned information of noise is not 0 but a bias of about (B - 1)(K - 1) / 2N nats. If all
    factors have K values, these are nearly equal, and noise scores near 0 for large B and K; but
    factors of different K do not. Units without information, such as constant ones, are left out;
    disentanglement_lib counts them as 0. It is not defined for a single factor.

    Args:
        bins: the number of bins of a unit, or None for nearest neighbors.

    References:
        Ridgeway, Mozer, 2018. Learning Deep Disentangled Embeddings with the F-Statistic Loss.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> modularity = pv.measure.disentanglement.Modularity()
        >>> round(modularity(factors.float(), factors).mean, 2)
        1.0
    """

    bins: int | None = BINS

    @property
    def settings(self) -> str:
        """The number of bins."""
        return "nearest neighbors" if self.bins is None else f"{self.bins} bins"

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the mean over units."""
        seed = int(generator.integers(2**31))
        squares = np.square(information(pairs, self.bins, seed=seed))
        most = squares.max(1)
        told = most > 0
        if not told.any() or len(pairs.factors) < 2:
            return {"modularity": float("nan")}
        others = (squares.sum(1) - most)[told] / (most[told] * (len(pairs.factors) - 1))
        return {"modularity": float(np.mean(1 - others))}
