"""Transform each batch on the device, such as to augment images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Transformed"]


@dataclass(frozen=True)
class Transformed:
    """Data whose batches are transformed on the device, in training only.

    `fit` transforms each batch of x before a step. Measurements (the ELBO at the end of an epoch,
    validation and `evaluate`) leave x as it is, unless `measured` is set. Batches are checked
    against the domain of the likelihood after the transform.

    Attributes:
        data: any data that `fit` takes.
        transform: a function of x [B, ...] that returns x. Its random numbers come from torch's
            generator, which the seed of `fit` sets.
        measured: whether measurements transform x too.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.rand(20, 1, 8, 8)
        >>> mirrored = pv.data.Transformed(x, lambda x: x.flip(-1))
        >>> ((batch,),) = pv.data.Batches(mirrored, 20, shuffle=True)
        >>> set(batch[:, 0, 0, 7].tolist()) == set(x[:, 0, 0, 0].tolist())
        True
    """

    data: Any
    transform: Callable[[Tensor], Tensor]
    measured: bool = False
