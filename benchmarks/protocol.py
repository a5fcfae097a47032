"""What a row of a published table is: a VAE, how it is trained, and what was published of it.

`benchmarks/tables.py` runs the rows of the modules in `benchmarks/tables/`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

import pyrovae as pv

STAGES = 8


class Splits(NamedTuple):
    """The data of a table; those to validate are measured after each epoch of a training."""

    train: pv.data.Split
    test: pv.data.Split
    validation: pv.data.Split | None = None


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
        replicated: the negative log-likelihood of a published replication, None if there is none.
        batch: the number of data in a batch.
        accumulate: the number of parts in which a batch is computed, for the same gradient.
        callbacks: returns further callbacks, such as an average of the weights.
        loop: trains instead of `fit`, as another library or a loop by hand does, by
            `loop(vae, x, curve, steps=steps, batch=batch)`. It is not resumed.
        continuous: the likelihood is a density over pixels in [0, 1], whose bits per dimension
            count the 256 levels of a pixel.
        data: the row's own data, if they are not those of the table.
    """

    make: Callable[[torch.Tensor], pv.VAE]
    step: Callable[[int], pv.Step]
    published: float | None = None
    units: Sequence[int] = ()
    batch: int = 100
    accumulate: int = 1
    callbacks: Callable[[], list[pv.Callback]] = list
    replicated: float | None = None
    loop: Callable[..., None] | None = None
    continuous: bool = False
    data: Callable[[str], Splits] | None = None


@dataclass(frozen=True)
class Table:
    """A published table, or a comparison under its protocol.

    Attributes:
        title: the heading of the page.
        text: what the page says of the protocol, theirs and ours.
        rows: the rows by name.
        data: returns the data, given the folder where they are.
        steps: the number of steps of each row, unless the command says another.
        bits: the number of dimensions by which bits are counted, None for nats per datum.
        goals: the nats of the curves to which the page gives the seconds.
        paired: whether the page has the difference of each row from the first, paired over data.
    """

    title: str
    text: str
    rows: Mapping[str, Row]
    data: Callable[[str], Splits]
    steps: int
    bits: int | None = None
    goals: Sequence[float] = ()
    paired: bool = False


def binary_mnist(root: str) -> Splits:
    """Return MNIST's 60,000 training images, binarized anew in each batch, and 10,000 to test."""
    data = pv.data.load("mnist", root)
    x = torch.cat([data.train.x, data.validation.x])
    return Splits(pv.data.Split(x, dynamic=True), data.test)


def slug(name: str) -> str:
    """Return a name of a folder.

    >>> slug("one layer, IWAE-5")
    'one-layer-iwae-5'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def row_of(table: Table, run: str) -> str:
    """Return the name of the row whose run has a folder of this name.

    >>> table = Table("", "", {"one layer, VAE-1": None, "one layer, VAE-5": None}, None, 1)
    >>> row_of(table, "one-layer-vae-1-80000-0")
    'one layer, VAE-1'
    """
    (found,) = (name for name in table.rows if slug(name) == run.rsplit("-", 2)[0])
    return found
