"""The separated attribute predictability: is each factor predicted by one unit alone?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pyrovae.measure.disentanglement.metric import Metric, divided
from pyrovae.measure.disentanglement.mig import gap
from pyrovae.measure.disentanglement.pairs import Pairs

__all__ = ["SAP"]


@dataclass(frozen=True, kw_only=True)
class SAP(Metric):
    r"""Score how much better one unit predicts a factor than any other unit (Kumar et al., 2018).

    $$ SAP = \frac{1}{F} \sum_k S_{(1) k} - S_{(2) k} $$

    For classes, $S_{jk}$ is the balanced accuracy at which thresholds on unit j predict factor k
    on held-out data. For ordered factors it is the $R^2$ of a linear regression on unit j. Noise
    scores about 0. The maximum of SAP is that of a unit that predicts each factor next to one
    that tells nothing: 1 for ordered factors, and the mean of $1 - 1 / K_k$ for classes of K
    values, as guessing is right once in K.

    As in the paper, thresholds are fitted to the balanced error, and a constant unit has S = 0.
    They are those of a decision tree with a leaf for each value; disentanglement_lib fits a linear
    support vector machine, one threshold a class.

    Args:
        ordered: whether all factors are ordered, so that distances of their codes have a meaning.

    References:
        Kumar, Sattigeri, Balakrishnan, 2018. Variational Inference of Disentangled Latent Concepts
            from Unlabeled Observations.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> sap = pv.measure.disentanglement.SAP(ordered=True)
        >>> round(sap(factors.float(), factors).mean, 2)
        1.0
    """

    ordered: bool = False
    resamples: int = 10

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the mean gap."""
        return {"SAP": float(np.mean(gap(self._predicted(pairs, generator))))}

    def _predicted(self, pairs: Pairs, generator: np.random.Generator) -> np.ndarray:
        """Return S, [L, F]."""
        units = np.flatnonzero(pairs.varies).tolist()
        found = np.zeros((len(pairs.units), len(pairs.factors)))
        if not units:
            return found
        if self.ordered:
            together = np.corrcoef(pairs.standardized[:, units], pairs.v, rowvar=False)
            found[units] = np.square(together[: len(units), len(units) :])
            return found
        scaled = replace(pairs, z=pairs.standardized)
        train, test = divided(scaled, generator)
        for k, size in enumerate(pairs.sizes):
            for j in units:
                found[j, k] = _balanced(train.z[:, [j]], train.v[:, k], size, test, (j, k))
        return found


def _balanced(
    z: np.ndarray, v: np.ndarray, size: int, test: Pairs, place: tuple[int, int]
) -> float:
    """Return the balanced accuracy of thresholds on one unit, on the held-out data."""
    from sklearn.tree import DecisionTreeClassifier

    leaves = max(size, 2)  # the last value may be missing among the rows to train on
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    guessed = tree.fit(z, v).predict(test.z[:, [place[0]]])
    truth = test.v[:, place[1]]
    return float(
        np.mean([(guessed[truth == value] == value).mean() for value in np.unique(truth)])
    )
