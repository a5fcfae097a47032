"""The unsupervised disentanglement ranking: do models trained alike agree on their units?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from pyrovae.measure.disentanglement.metric import LIMIT, Scores
from pyrovae.measure.disentanglement.pairs import Units, units_of
from pyrovae.measure.findings import Number

__all__ = ["UDR", "agreement"]

PENALTY: Final = 0.1
ACTIVE: Final = 0.01
"""The variance above which a unit is informative (Burda et al., 2016)."""


@dataclass(frozen=True, kw_only=True)
class UDR:
    r"""Score each of several models by its units' agreement with the others' (Duan et al., 2020).

    $$ UDR_{ab} = \frac{1}{d_a + d_b} \left( \sum_j \frac{r_j^2}{\sum_i R_{ij}}
        + \sum_i \frac{r_i^2}{\sum_j R_{ij}} \right) $$

    where $R_{ij}$ is the similarity of unit i of model a and unit j of model b, r the greatest of
    a row or a column, and d the number of informative units. A model's score is the median over
    the other models. It is 1 if the units of both are the same up to permutation and sign, which
    entangled codes of different seeds are not. No factors are needed: the models are of one
    architecture and one setting, and differ by their seed. A model without informative units, such
    as one that has collapsed, has no score, and counts for none of the others.

    Only informative units take part: in the paper, those with a KL above 0.01 nats. A
    representation has no KL, so here units are informative if their variance exceeds 0.01, unless
    `informative` names them.

    Args:
        similarity: "lasso", the absolute coefficients of the standardized units of a for one of b,
            with the weight 0.1; or "spearman", the absolute rank correlation.
        limit: the largest number of data, drawn at random; None for all.
        resamples: the number of halves of the data that give the error; fewer than 2 for none.
        seed: of what is drawn.

    References:
        Duan et al., 2020. Unsupervised Model Selection for Variational Disentangled Representation
            Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> z = torch.randn(500, 3)
        >>> udr = pv.measure.disentanglement.UDR(similarity="spearman")
        >>> found = udr({"a": z, "b": -z[:, [2, 0, 1]], "c": z[:, [1, 2, 0]]})
        >>> all(number.mean > 0.9 for number in found.numbers.values())
        True
    """

    similarity: Literal["lasso", "spearman"] = "lasso"
    limit: int | None = LIMIT
    resamples: int = 20
    seed: int = 0

    def __post_init__(self) -> None:  # noqa: D105
        if self.similarity not in ("lasso", "spearman"):
            raise ValueError(
                f"the similarity of UDR is 'lasso' or 'spearman'; got {self.similarity!r}"
            )

    def __call__(
        self,
        representations: Mapping[str, Any] | Sequence[Any],
        *,
        informative: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> Scores:
        """Score models.

        Args:
            representations: those of the same N data, [N, L] each, of two models or more.
            informative: for each model, which of its units are informative, [L] booleans.

        Raises:
            ValueError: for fewer than two models, representations of different lengths, or with
                missing values.
        """
        named = _named(representations)
        models = {name: units_of(each, None)[1] for name, each in named.items()}
        lengths = {len(z) for z in models.values()}
        if len(models) < 2 or len(lengths) > 1:
            raise ValueError(
                "UDR compares two models or more on the same data; got representations of "
                f"{', '.join(f'{len(z):,}' for z in models.values())} data"
            )
        used = dict.fromkeys(models) if informative is None else _named(informative)
        kept = [
            z[:, z.var(0) > ACTIVE if used[name] is None else np.asarray(used[name], bool)]
            for name, z in models.items()
        ]
        (count,) = lengths
        generator = np.random.default_rng(self.seed)
        rows = generator.permutation(count)[: self.limit]
        values = self._scored([z[rows] for z in kept])
        halves = []
        for _ in range(self.resamples):
            half = generator.permutation(rows)[: len(rows) // 2]
            halves.append(self._scored([z[half] for z in kept]))
        errors = np.std(halves, axis=0, ddof=1) if len(halves) > 1 else [math.nan] * len(kept)
        numbers = {
            name: Number(float(value), float(error))
            for name, value, error in zip(models, values, errors, strict=True)
        }
        units = tuple(f"z[{i}]" for i in range(max(z.shape[1] for z in models.values())))
        return Scores(numbers, len(rows), units, (), f"UDR, {self.similarity}")

    def _scored(self, models: list[Units]) -> list[float]:
        """Return the score of each model."""
        found = np.full((len(models), len(models)), np.nan)
        for a, one in enumerate(models):
            for b, other in enumerate(models):
                if a != b and one.size and other.size:
                    found[a, b] = agreement(_similarity(self.similarity, one, other))
        known = [column[np.isfinite(column)] for column in found.T]
        return [float(np.median(each)) if each.size else math.nan for each in known]


def agreement(similarity: np.ndarray) -> float:
    """Return the agreement of two models from the similarity of their units, [L_a, L_b].

    A unit that resembles no other adds 0.

    Example:
        >>> agreement(np.eye(3)), agreement(np.ones((4, 4)))
        (1.0, 0.25)
    """
    total = 0.0
    for axis in (0, 1):
        most, whole = similarity.max(axis), similarity.sum(axis)
        total += float((np.square(most) / np.where(whole > 0, whole, 1.0)).sum())
    return total / sum(similarity.shape)


def _similarity(kind: str, one: Units, other: Units) -> np.ndarray:
    if kind == "spearman":
        import scipy.stats

        ranks = (scipy.stats.rankdata(z, axis=0) for z in (one, other))
        together = np.corrcoef(np.hstack([*ranks]), rowvar=False)
        return np.abs(together[: one.shape[1], one.shape[1] :])
    from sklearn.linear_model import Lasso

    scaled = [(z - z.mean(0)) / z.std(0) for z in (one, other)]
    coefficients = (
        Lasso(PENALTY, random_state=0).fit(*scaled).coef_.reshape(other.shape[1], one.shape[1])
    )
    return np.abs(coefficients).T


def _named(models: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(models, Mapping):
        return dict(models)
    return {f"model {i}": each for i, each in enumerate(models)}
