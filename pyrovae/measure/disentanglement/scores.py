"""All metrics of a representation in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrovae.measure.disentanglement.dci import DCI
from pyrovae.measure.disentanglement.fixed_factor import BetaVAEScore, FactorVAEScore
from pyrovae.measure.disentanglement.metric import Metric, Scores
from pyrovae.measure.disentanglement.mig import MIG
from pyrovae.measure.disentanglement.modularity import Modularity
from pyrovae.measure.disentanglement.pairs import Pairs
from pyrovae.measure.disentanglement.robustness import InterventionalRobustness
from pyrovae.measure.disentanglement.sap import SAP
from pyrovae.measure.findings import Number

__all__ = ["METRICS", "disentanglement"]

METRICS: tuple[Metric, ...] = (
    MIG(),
    SAP(),
    DCI(),
    FactorVAEScore(),
    BetaVAEScore(),
    Modularity(),
    InterventionalRobustness(),
)
"""The metrics with the settings of the literature."""


def disentanglement(
    representation: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Score a representation by several metrics, each from 0 to 1 with its error over data.

    Args:
        representation: the units of N data, numbers [N, L], as of `assign`.
        factors: what the data were made of, [N, F], as of `assign`.
        names: the names of the factors.
        metrics: the metrics; by default all, with the settings of the literature.

    Raises:
        ValueError: as `assign`.

    References:
        Locatello et al., 2019. Challenging Common Assumptions in the Unsupervised Learning of
            Disentangled Representations.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.measure.disentanglement import MIG, SAP
        >>> factors = torch.randint(4, (1000, 2))
        >>> found = pv.disentanglement(factors.float(), factors, metrics=[MIG(), SAP()])
        >>> {name: round(number.mean, 1) for name, number in found.numbers.items()}
        {'MIG': 1.0, 'SAP': 0.7}
    """
    pairs = Pairs.of(representation, factors, names=names)
    numbers: dict[str, Number] = {}
    for metric in metrics:
        numbers |= metric.numbers(pairs)
    limits = [len(pairs) if metric.limit is None else metric.limit for metric in metrics]
    used = min(len(pairs), max(limits, default=len(pairs)))
    return Scores(numbers, used, pairs.units, pairs.factors)
