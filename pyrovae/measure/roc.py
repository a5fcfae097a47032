"""How well a score tells two kinds of data apart."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.measure.findings import Number


def auroc(inside: Tensor, outside: Tensor) -> Number:
    r"""Return the area under the ROC curve with its standard error over data.

    $$ P(s_{out} > s_{in}) + \tfrac12 P(s_{out} = s_{in}) $$

    over all pairs: the statistic of Mann and Whitney. The error is DeLong's, which is not known
    (NaN) for one datum of a kind, and where every pair is told apart, since 0 would be too sure.

    Args:
        inside: scores of data of the model's kind, [M].
        outside: scores of novel data, [N].

    Raises:
        ValueError: if either is empty or has NaN.

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
            f"the curve takes scores of both kinds, none of them NaN; got {len(a)} inside, "
            f"{int(a.isnan().sum())} of them NaN, and {len(b)} outside, {int(b.isnan().sum())} NaN"
        )
    told_from_in = _share_below(a, b)  # for each novel datum
    told_from_out = 1 - _share_below(b, a)  # for each of the model's kind
    area = told_from_in.mean().item()
    if min(len(a), len(b)) < 2 or area in (0.0, 1.0):
        return Number(area)
    variance = told_from_in.var() / len(b) + told_from_out.var() / len(a)
    return Number(area, error_over_data=variance.sqrt().item())


def _share_below(scores: Tensor, at: Tensor) -> Tensor:
    """Return the share of scores below each value, equal ones by half."""
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, at, side="left")
    up_to = torch.searchsorted(ordered, at, side="right")
    return (below + up_to).double() / (2 * len(scores))
