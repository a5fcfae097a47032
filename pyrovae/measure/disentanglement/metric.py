r"""Scores of a representation, each with its standard error over data.

The error is the spread of the score over random halves of the data, drawn without replacement. The
mean of N/2 out of N data varies over halves just as the mean of N varies over data sets. Unlike
samples with replacement, halves have no ties, which nearest neighbors and held-out rows would take
for information.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import rich.box
from rich.table import Table

from pyrovae.measure.disentanglement.pairs import Pairs, sized
from pyrovae.measure.findings import Finding, Number, Quantity

__all__ = ["LIMIT", "Metric", "Scores", "divided", "resampled"]

LIMIT: Final = 10_000
"""The largest number of data that a score is computed from (Locatello et al., 2019)."""


@final
@dataclass(frozen=True, repr=False)
class Scores(Finding):
    """Scores of a representation, each with its standard error over data.

    Attributes:
        numbers: the scores by name.
        data: the number of data N.
        units: the names of the units.
        factors: the names of the factors.
        settings: what the scores were computed with, such as "20 bins".
    """

    numbers: dict[str, Number]
    data: int
    units: tuple[str, ...]
    factors: tuple[str, ...]
    settings: str = ""

    def __getitem__(self, name: str) -> Number:
        """Return a score by its name."""
        return self.numbers[name]

    @property
    def mean(self) -> float:
        """The first score."""
        return next(iter(self.numbers.values())).mean

    @property
    def title(self) -> str:
        """The number of data, units and factors, and the settings."""
        sizes = sized(self.data, self.units, self.factors)
        return f"{sizes}, {self.settings}" if self.settings else sizes

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The scores by name."""
        return dict(self.numbers)

    def table(self) -> Table:
        """Return the table of the scores; their errors contain those over what is drawn."""
        table = Table(box=rich.box.SIMPLE_HEAD, title=self.title, pad_edge=False)
        for column in ("", "score", "± over data"):
            table.add_column(column, justify="right" if column else "left")
        for name, number in self.numbers.items():
            pair = (number.mean, number.error_over_data)
            table.add_row(name, *("" if math.isnan(value) else f"{value:.3f}" for value in pair))
        return table

    @property
    def partial(self) -> bool:
        """Whether scores are missing because of an interrupt: always False."""
        return False

    @property
    def verdict(self) -> Sequence[str]:
        """Which scores could not be computed."""
        missing = [name for name, number in self.numbers.items() if math.isnan(number.mean)]
        of_one = len(self.factors) == 1 and not (
            len(self.units) == 1 and "completeness" in missing
        )
        reason = "a single factor" if of_one else "this representation"
        return [f"Not defined for {reason}: {', '.join(missing)}."] if missing else []


@dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """A score of how a representation [N, L] separates factors [N, F].

    Args:
        limit: the largest number of data, drawn at random; None for all.
        resamples: the number of halves of the data that give the error; fewer than 2 for none.
        seed: of what is drawn.
    """

    limit: int | None = LIMIT
    resamples: int = 50
    seed: int = 0

    @property
    def settings(self) -> str:
        """What the score is computed with."""
        return ""

    @abc.abstractmethod
    def values(self, pairs: Pairs, generator: np.random.Generator) -> Mapping[str, float]:
        """Compute the scores by name; NaN where one is not defined."""

    def numbers(self, pairs: Pairs) -> dict[str, Number]:
        """Compute the scores of checked data, with their errors."""
        generator = np.random.default_rng(self.seed)
        rows = pairs.limited(self.limit, generator)
        values = self.values(rows, generator)
        errors = resampled(self, rows, generator)
        return {
            name: Number(float(value), errors.get(name, math.nan))
            for name, value in values.items()
        }

    def __call__(
        self, representation: Any, factors: Any, *, names: Sequence[str] | None = None
    ) -> Scores:
        """Score a representation.

        Args:
            representation: numbers [N, L], as of `assign`.
            factors: values from finite sets [N, F], as of `assign`.
            names: the names of the factors.

        Raises:
            ValueError: as `assign`.
        """
        pairs = Pairs.of(representation, factors, names=names)
        used = len(pairs) if self.limit is None else min(len(pairs), self.limit)
        return Scores(self.numbers(pairs), used, pairs.units, pairs.factors, self.settings)


def resampled(metric: Metric, pairs: Pairs, generator: np.random.Generator) -> dict[str, float]:
    """Return the standard deviation of each score over random halves of the data.

    A half is scored with the factors and values that it has: a rare value may be missing from it.
    The error is NaN if fewer than two halves have a score, and left out if no halves are wanted.

    References:
        Shao, Wu, 1989. A General Theory for Jackknife Variance Estimation.
        Politis, Romano, 1994. Large Sample Confidence Regions Based on Subsamples.
    """
    if metric.resamples < 2:
        return {}
    found: dict[str, list[float]] = {}
    for _ in range(metric.resamples):
        rows = generator.permutation(len(pairs))[: len(pairs) // 2]
        half = pairs.take(rows).varied()
        for name, value in metric.values(half, generator).items() if half.factors else ():
            found.setdefault(name, []).append(value)
    return {name: _deviation(values) for name, values in found.items()}


def _deviation(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def divided(pairs: Pairs, generator: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Divide data at random into two thirds to train on and a third to test on."""
    order = generator.permutation(len(pairs))
    cut = len(pairs) - len(pairs) // 3
    return pairs.take(order[:cut]), pairs.take(order[cut:])
