"""Disentanglement, completeness and informativeness, from the importances of a predictor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from pyrovae.measure.disentanglement.metric import Metric, divided
from pyrovae.measure.disentanglement.pairs import Pairs

__all__ = ["DCI", "completeness", "disentanglement"]

TREES: Final = 10
LEAF: Final = 10
PENALTY: Final = 0.02

Predictor = Literal["forest", "boosting", "lasso"]


@dataclass(frozen=True, kw_only=True)
class DCI(Metric):
    r"""Score disentanglement, completeness and informativeness (Eastwood, Williams, 2018).

    DCI predicts each factor k from all units; $R_{jk}$ is the importance of unit j.

        disentanglement    $\sum_j \rho_j (1 - H_F(P_j))$, where $P_{jk} = R_{jk} / \sum_k R_{jk}$,
                           $H_F$ is the entropy to the base F, and $\rho_j$ is the part of unit j
                           in all importances: 1 if each unit predicts one factor
        completeness       the mean of $1 - H_L(R_{\cdot k} / \sum_j R_{jk})$ over factors: 1 if
                           one unit predicts each factor
        informativeness    the accuracy on held-out data, a third of all; for the lasso, 1 less the
                           root of the mean squared error over the factor's standard deviation

    For noise the first two are near 0, and the accuracy is that of guessing.

    The paper uses the lasso and random forests, of a depth by validation, on ordered factors.
    Here the forest is one of 10 trees that classify, with leaves of 10 data or more, and
    importances are decreases of the Gini impurity. disentanglement_lib
    uses gradient boosting, which is slower, and weights completeness by the factors' importances,
    which are equal for trees.

    Args:
        predictor: "forest", "boosting", or "lasso", a linear regression on the codes of ordered
            factors.

    References:
        Eastwood, Williams, 2018. A Framework for the Quantitative Evaluation of Disentangled
            Representations.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (600, 2))
        >>> found = pv.measure.disentanglement.DCI(resamples=2)(factors.float(), factors)
        >>> {name: round(number.mean, 2) for name, number in found.numbers.items()}
        {'disentanglement': 1.0, 'completeness': 1.0, 'informativeness': 1.0}
    """

    predictor: Predictor = "forest"
    resamples: int = 10

    def __post_init__(self) -> None:  # noqa: D105
        if self.predictor not in ("forest", "boosting", "lasso"):
            raise ValueError(
                f"the predictor of DCI is 'forest', 'boosting' or 'lasso'; got {self.predictor!r}"
            )

    @property
    def settings(self) -> str:
        """The predictor."""
        return self.predictor

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the three scores."""
        train, test = divided(replace(pairs, z=pairs.standardized), generator)
        importances, right = [], []
        for k in range(len(pairs.factors)):
            linear, known = self.predictor == "lasso", train.v[:, k]
            if known.min() == known.max() or (linear and np.ptp(test.v[:, k]) == 0):
                importances.append(np.zeros(len(pairs.units)))
                right.append(math.nan if linear else np.mean(test.v[:, k] == known[0]))
                continue
            fitted = _predictor(self.predictor, generator).fit(train.z, known)
            found = np.abs(fitted.coef_) if linear else fitted.feature_importances_
            importances.append(found)
            guessed, truth = fitted.predict(test.z), test.v[:, k]
            error = np.sqrt(np.mean(np.square(guessed - truth)))
            right.append(1 - error / truth.std() if linear else np.mean(guessed == truth))
        matrix = np.stack(importances, axis=1)
        return {
            "disentanglement": disentanglement(matrix),
            "completeness": completeness(matrix),
            "informativeness": float(np.mean(right)),
        }


def _predictor(kind: Predictor, generator: np.random.Generator) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import Lasso

    seed = int(generator.integers(2**31))
    if kind == "forest":
        return RandomForestClassifier(
            TREES, max_features=None, min_samples_leaf=LEAF, random_state=seed
        )
    return (
        GradientBoostingClassifier(random_state=seed)
        if kind == "boosting"
        else Lasso(PENALTY, random_state=0)
    )


def disentanglement(importances: np.ndarray) -> float:
    """Return the disentanglement of importances [L, F]; NaN for one factor, or if all are 0.

    Example:
        >>> disentanglement(np.eye(3)), round(disentanglement(np.ones((3, 3))), 9)
        (1.0, 0.0)
    """
    of_unit = importances.sum(1)
    if importances.shape[1] < 2 or not of_unit.any():
        return float("nan")
    weights = of_unit / of_unit.sum()
    return float((weights * (1 - _entropy(importances))).sum())


def completeness(importances: np.ndarray) -> float:
    """Return the completeness of importances [L, F]; NaN for one unit.

    A factor that no unit predicts has the completeness 0.

    Example:
        >>> completeness(np.eye(3)), round(completeness(np.ones((3, 3))), 9)
        (1.0, 0.0)
    """
    if importances.shape[0] < 2:
        return float("nan")
    return float((1 - _entropy(importances.T)).mean())


def _entropy(importances: np.ndarray) -> np.ndarray:
    """Return the entropy of each row to the base of its length; 1 for a row of zeros."""
    total = importances.sum(1, keepdims=True)
    size = importances.shape[1]
    shares = np.where(total > 0, importances / np.where(total > 0, total, 1.0), 1 / size)
    found = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1) / np.log(size)
    return np.asarray(found.clip(0.0, 1.0))
