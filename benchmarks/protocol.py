"""What a row of a published table is: a VAE, how it is trained, and what was published of it.

`benchmarks/tables.py` runs the rows of the modules in `benchmarks/tables/`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import pyrovae as pv

STAGES = 8


def staged(steps: int, lr: float = 1e-3) -> Callable[[int], float]:
    r"""Return the schedule of Burda et al. (2016), stretched or compressed to so many steps.

    Stage i = 0, ..., 7 has the rate $lr\,10^{-i/7}$ and a share of $3^i$ in the steps.

    >>> rate = staged(3280)
    >>> [round(rate(t), 6) for t in (0, 1, 3, 4, 3279, 9999)]
    [0.001, 0.00072, 0.00072, 0.000518, 0.0001, 0.0001]
    """
    whole = (3**STAGES - 1) // 2
    ends = [steps * ((3 ** (i + 1) - 1) // 2) / whole for i in range(STAGES - 1)]
    return lambda t: lr * 10 ** (-bisect_right(ends, t) / (STAGES - 1))


def burda(steps: int) -> pv.Optim:
    """Return the optimizer of Burda et al. (2016) for so many steps."""
    return pv.Optim(torch.optim.Adam, lr=staged(steps), betas=(0.9, 0.999), eps=1e-4)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        make: returns the untrained VAE for the training data [N, D].
        step: returns the step of `fit` for the number of steps of the whole training.
        published: the published negative log-likelihood in nats, None if there is none.
        units: the published numbers of active units, from the data up.
        batch: the number of data in a batch.
        callbacks: returns further callbacks, such as an average of the weights.
    """

    make: Callable[[torch.Tensor], pv.VAE]
    step: Callable[[int], pv.Step]
    published: float | None = None
    units: Sequence[int] = ()
    batch: int = 100
    callbacks: Callable[[], list[pv.Callback]] = list


@dataclass(frozen=True)
class Table:
    """A published table, or a comparison under its protocol.

    Attributes:
        title: the heading of the page.
        text: what the page says of the protocol, theirs and ours.
        rows: the rows by name.
        data: returns training and test data.
        steps: the number of steps of each row, unless the command says another.
    """

    title: str
    text: str
    rows: Mapping[str, Row]
    data: Callable[[str], tuple[pv.data.Split, pv.data.Split]]
    steps: int
    notes: Mapping[str, Any] = field(default_factory=dict)


def binary_mnist(root: str) -> tuple[pv.data.Split, pv.data.Split]:
    """Return MNIST's 60,000 training images, binarized anew in each batch, and 10,000 to test."""
    data = pv.data.load("mnist", root)
    x = torch.cat([data.train.x, data.validation.x])
    return pv.data.Split(x, dynamic=True), data.test
