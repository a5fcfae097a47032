"""Scores of batches whose data share the value of one factor: which factor was it?

A batch is drawn from the given data: the value is that of a random datum, and the others are drawn
with replacement from the data that share it. Values of a single datum are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from pyrovae.measure.disentanglement.metric import Metric
from pyrovae.measure.disentanglement.pairs import Codes, Pairs

__all__ = ["BetaVAEScore", "FactorVAEScore", "Sharing"]

CHUNK: Final = 2_000_000
"""The largest number of values that are gathered at once."""


@dataclass(frozen=True, kw_only=True)
class _FixedFactor(Metric):
    """A classifier of batches.

    Args:
        batch: the number of data, or of pairs of data, in a batch.
        train: the number of batches that the classifier learns from.
        test: the number of batches that it is tested on.
    """

    batch: int = 64
    train: int = 10_000
    test: int = 5_000
    resamples: int = 10

    def __post_init__(self) -> None:  # noqa: D105
        if self.batch < 2 or self.train < 1 or self.test < 1:
            raise ValueError(
                "expected batches of at least 2, and at least one of them to train and test on; "
                f"got batch={self.batch}, train={self.train}, test={self.test}"
            )

    @property
    def settings(self) -> str:
        """The numbers of batches."""
        return f"{self.train:,} + {self.test:,} batches of {self.batch}"


@final
@dataclass(frozen=True, kw_only=True)
class FactorVAEScore(_FixedFactor):
    r"""Score which unit varies least if a factor is fixed (Kim, Mnih, 2018).

    In each batch one factor k has the same value. The unit with the least variance, relative to
    that over all data, votes for it. The score is the accuracy of the majority vote, unit by unit,
    on further batches: 1 if each factor fixes a unit of its own, and about 1 / F for noise.

    Constant units are left out. The accuracy is that on held-out votes, as in disentanglement_lib,
    from which the numbers of batches are. It is not defined for a single factor.

    References:
        Kim, Mnih, 2018. Disentangling by Factorising.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> score = pv.measure.disentanglement.FactorVAEScore(train=200, test=100)
        >>> round(score(factors.float(), factors).mean, 2)
        1.0
    """

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the accuracy of the majority vote."""
        sharing = Sharing.of(pairs)
        z = pairs.standardized[:, pairs.varies]
        if not sharing.usable or not z.size:
            return {"FactorVAE score": float("nan")}
        factors = generator.integers(len(pairs.factors), size=self.train + self.test)
        units = np.empty_like(factors)
        step = max(1, CHUNK // (self.batch * z.shape[1]))
        for start in range(0, len(factors), step):
            part = factors[start : start + step]
            rows = sharing.rows(part, self.batch, generator)
            units[start : start + step] = z[rows].var(1).argmin(1)
        votes = np.zeros((z.shape[1], len(pairs.factors)))
        np.add.at(votes, (units[: self.train], factors[: self.train]), 1)
        right = votes.argmax(1)[units[self.train :]] == factors[self.train :]
        return {"FactorVAE score": float(right.mean())}


@final
@dataclass(frozen=True, kw_only=True)
class BetaVAEScore(_FixedFactor):
    r"""Score whether a linear classifier tells the fixed factor of pairs (Higgins et al., 2017).

    The two data of a pair share the value of factor k. A batch is the mean of
    $|z_{1j} - z_{2j}|$ over its pairs, [L], and a logistic regression predicts k from it. The
    score is its accuracy on further batches: 1 if each factor fixes a unit of its own, about 1 / F
    for noise. It can also be 1 if all factors but one have a unit (Kim, Mnih, 2018).

    Units are scaled to the same standard deviation, which the paper leaves open. The numbers of
    batches are those of disentanglement_lib. It is not defined for a single factor.

    References:
        Higgins et al., 2017. beta-VAE: Learning Basic Visual Concepts with a Constrained
            Variational Framework.

    Example:
        >>> import torch, pyrovae as pv
        >>> factors = torch.randint(4, (1000, 2))
        >>> score = pv.measure.disentanglement.BetaVAEScore(train=200, test=100)
        >>> round(score(factors.float(), factors).mean, 2)
        1.0
    """

    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the accuracy of the linear classifier."""
        from sklearn.linear_model import LogisticRegression

        sharing = Sharing.of(pairs)
        z = pairs.standardized[:, pairs.varies]
        if not sharing.usable or not z.size:
            return {"BetaVAE score": float("nan")}
        factors = generator.integers(len(pairs.factors), size=self.train + self.test)
        apart = np.empty((len(factors), z.shape[1]))
        step = max(1, CHUNK // (2 * self.batch * z.shape[1]))
        for start in range(0, len(factors), step):
            part = factors[start : start + step]
            each = np.repeat(part, self.batch)
            first, second = sharing.rows(each, 2, generator).T
            found = np.abs(z[first] - z[second]).reshape(len(part), self.batch, -1)
            apart[start : start + step] = found.mean(1)
        if len(np.unique(factors[: self.train])) < 2:
            return {"BetaVAE score": float("nan")}
        fitted = LogisticRegression(max_iter=1000).fit(apart[: self.train], factors[: self.train])
        right = fitted.predict(apart[self.train :]) == factors[self.train :]
        return {"BetaVAE score": float(right.mean())}


@dataclass(frozen=True)
class Sharing:
    """The rows that share the value of a factor, to draw from.

    Attributes:
        order: the rows sorted by each factor, [F, N]; rows of one value stand together.
        start: the place in it where the rows of a row's own value begin, [F, N].
        count: the number of rows that have it, [F, N].
        several: for each factor, the rows whose value others share.

    Example:
        >>> pairs = Pairs.of(np.eye(6)[:, :2], [0, 1, 0, 2, 0, 0])
        >>> sharing = Sharing.of(pairs)
        >>> rows = sharing.rows(np.zeros(100, int), 3, np.random.default_rng(0))
        >>> sorted(set(rows.ravel().tolist()))
        [0, 2, 4, 5]
    """

    order: Codes
    start: Codes
    count: Codes
    several: list[Codes]

    @classmethod
    def of(cls, pairs: Pairs) -> Sharing:
        """Index the rows of data by the values of their factors."""
        order, start, count, several = [], [], [], []
        for v, size in zip(pairs.v.T, pairs.sizes, strict=True):
            counts = np.bincount(v, minlength=size)
            order.append(np.argsort(v, kind="stable"))
            start.append((counts.cumsum() - counts)[v])
            count.append(counts[v])
            several.append(np.flatnonzero(counts[v] > 1))
        return cls(np.stack(order), np.stack(start), np.stack(count), several)

    @property
    def usable(self) -> bool:
        """Whether there are several factors, each with a value that several rows share."""
        return len(self.several) > 1 and all(len(rows) for rows in self.several)

    def rows(self, factors: Codes, size: int, generator: np.random.Generator) -> Codes:
        """Draw `size` rows that share the value of a factor, for each of B factors, [B, size]."""
        sizes = np.array([len(rows) for rows in self.several])[factors]
        pick = (generator.random(len(factors)) * sizes).astype(np.int64)
        chosen = np.empty_like(pick)
        for k, rows in enumerate(self.several):
            chosen[factors == k] = rows[pick[factors == k]]
        start, count = self.start[factors, chosen], self.count[factors, chosen]
        within = (generator.random((len(factors), size)) * count[:, None]).astype(np.int64)
        return np.asarray(self.order[factors[:, None], start[:, None] + within])
