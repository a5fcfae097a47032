"""The mutual information gap: is each factor in one unit?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyrovae.measure.disentanglement.information import BINS, entropies, information
from pyrovae.measure.disentanglement.metric import Metric
from pyrovae.measure.disentanglement.pairs import Pairs

__all__ = ["MIG", "gap"]


@dataclass(frozen=True, kw_only=True)
class MIG(Metric):
    r"""Score how much more one unit knows of a factor than any other unit (Chen et al., 2018).

    $$ MIG = \frac{1}{F} \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)} $$

    where $z_{(1)}$ and $z_{(2)}$ are the units with the most information about $v_k$. The MIG is
    1 if one unit determines each factor and no other unit knows of it, and about 0 for noise and
    for rotated factors. Two factors in one unit are not penalized.

    The paper draws $z$ from the guide. As this metric is given points, it bins them, as Locatello
    et al. do: a unit of B bins holds log B nats at most, so a factor with more values than bins
    cannot reach 1. Bins of equal width also lose a unit with outliers, whose other data are then
    in few bins; `assign` moves outliers.

    Args:
        bins: the number of bins of a unit, or None for nearest neighbors.

    References:
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.
        Locatello et al., 2019. Challenging Common Assumptions in the Unsupervised Learning of
            Disentangled Representations.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> mig = pv.measure.disentanglement.MIG()
        >>> round(mig(factors.float(), factors).mean, 2)
        1.0
        >>> mig(torch.randn(1000, 2), factors).mean < 0.05
        True
    """

    bins: int | None = BINS

    @property
    def settings(self) -> str:
        """The number of bins."""
        return "nearest neighbors" if self.bins is None else f"{self.bins} bins"

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the mean gap."""
        seed = int(generator.integers(2**31))
        nats = information(pairs, self.bins, seed=seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"MIG": float(np.mean(gap(nats) / entropies(pairs)))}


def gap(scores: np.ndarray) -> np.ndarray:
    """Return the difference of the greatest and the second greatest score over units, [F].

    A single unit is compared with one that scores 0.

    Example:
        >>> gap(np.array([[0.1, 2.0], [0.5, 1.5], [0.2, 0.0]]))
        array([0.3, 0.5])
    """
    ranked = np.sort(np.vstack([scores, np.zeros_like(scores[:1])]), axis=0)
    return np.asarray(ranked[-1] - ranked[-2])
