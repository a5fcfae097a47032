"""The area under the ROC curve, which measures how well a score separates two kinds of data."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.measure.findings import Number

__all__ = ["auroc"]


def auroc(inside: Tensor, outside: Tensor) -> Number:
    r"""Return the area under the ROC curve with its standard error over data.

    $$ P(s_{out} > s_{in}) + \tfrac12 P(s_{out} = s_{in}) $$

    The probabilities are shares of all M N pairs, which is the statistic of Mann and Whitney. The
    standard error is DeLong's. It is NaN if either kind has a single datum, and if the area is 0
    or 1, where DeLong's estimate would be 0.

    Args:
        inside: scores of in-distribution data, [M].
        outside: scores of novel data, [N].

    Raises:
        ValueError: if either tensor is empty or contains NaN.

    References:
        DeLong, DeLong, Clarke-Pearson, 1988. Comparing the Areas under Two or More Correlated
            Receiver Operating Characteristic Curves.

    Example:
        >>> auroc(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])).mean
        0.75
    """
    a, b = (scores.detach().cpu().double().flatten() for scores in (inside, outside))
    if min(len(a), len(b)) < 1 or a.isnan().any() or b.isnan().any():
        raise ValueError(
            "auroc needs at least one score of each kind and no NaN; got "
            f"{len(a)} inside, {int(a.isnan().sum())} NaN, and {len(b)} outside, "
            f"{int(b.isnan().sum())} NaN"
        )
    below_novel = _share_below(a, b)  # [N]
    above_familiar = 1 - _share_below(b, a)  # [M]
    area = below_novel.mean().item()
    if min(len(a), len(b)) < 2 or area in (0.0, 1.0):
        return Number(area)
    variance = below_novel.var() / len(b) + above_familiar.var() / len(a)
    return Number(area, error_over_data=variance.sqrt().item())


def _share_below(scores: Tensor, at: Tensor) -> Tensor:
    """Return the share of scores below each value, counting ties as one half."""
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, at, side="left")
    up_to = torch.searchsorted(ordered, at, side="right")
    return (below + up_to).double() / (2 * len(scores))
