"""Say at which data log-weights are NaN, and which site makes them so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

from pyrovae.weights.pair import Terms

__all__ = ["LOG_WEIGHTS", "cause", "remark"]

LOG_WEIGHTS: Final = "log-weights"
"""The name of the log-weights among the quantities that were not measured."""


def cause(terms: Terms) -> str:
    """Return which sites have a log-probability of NaN.

    Example:
        >>> import torch
        >>> cause(Terms({"z": torch.zeros(2, 3)}, {"x": torch.full((2, 3), torch.nan)}, {}))
        "the log-probability of 'x' is NaN"
    """
    names = dict.fromkeys(
        name for sites in terms for name, term in sites.items() if term.isnan().any()
    )
    # Infinities of different signs add up to NaN although no term is.
    infinite = dict.fromkeys(
        name for sites in terms for name, term in sites.items() if term.isinf().any()
    )
    if names:
        return f"the log-probability of {' and '.join(map(repr, names))} is NaN"
    return f"the infinite log-probabilities of {' and '.join(map(repr, infinite))} add up to NaN"


def remark(elbo: Tensor) -> Sequence[str]:
    """Return a sentence on the data whose log-weights are NaN; empty if none are.

    Example:
        >>> import torch
        >>> remark(torch.tensor([-1.0, torch.nan, torch.nan]))[0][:63]
        'The log-weights of 2 of 3 data are NaN for some particles, the '
    """
    rows = elbo.isnan().nonzero().flatten().tolist()
    if not rows:
        return []
    return [
        f"The log-weights of {len(rows):,} of {len(elbo):,} data are NaN for some particles, the "
        f"first in row {rows[0]}, so that these data have no bounds and the table no means: mend "
        "the program at the site that is named below."
    ]
