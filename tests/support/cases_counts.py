"""A VAE around each likelihood of counts, tables of mixed columns, and data with gaps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas
import torch
from cases import Case
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.likelihoods import (
    Categorical,
    Columns,
    Masked,
    Multinomial,
    NegativeBinomial,
    Normal,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyrovae.nets import MLP, HideMissing, LogCounts

COUNTS = torch.tensor([[0.0, 3.0, 12.0], [1.0, 0.0, 4.0], [2.0, 7.0, 0.0], [5.0, 1.0, 30.0]])
TABLE = torch.tensor(
    [[0.3, 2.0, 5.0, -1.2], [-0.7, 0.0, 0.0, 0.4], [1.9, 1.0, 2.0, 0.0], [0.2, 1.0, 9.0, 0.8]]
)
SEEN = torch.tensor(
    [
        [True, False, True, True],
        [False, True, True, False],
        [True, True, False, True],
        [False, False, True, True],
    ]
)


def case(likelihood: nn.Module, encoder: nn.Module, x: Tensor, *context: Tensor) -> Case:
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=likelihood,
        guide=pv.guides.MeanFieldNormal(encoder),
    )
    return Case(vae, x, context)


def of_counts(family: Callable[..., nn.Module], outputs: int, *, library: bool = False) -> Case:
    likelihood = family(MLP(2, 4, 3 * outputs), library=library)
    if not library:
        return case(likelihood, LogCounts(MLP(3, 4, 4)), COUNTS)
    encoder = LogCounts(MLP(3 + 1, 4, 4), library=True)
    return case(likelihood, encoder, COUNTS, COUNTS.sum(1))


def table(*, trunk: bool = False) -> Columns:
    width = 5 if trunk else 2
    groups = [
        (Normal(MLP(width, 4, 2)), [3, 0]),
        (Categorical(MLP(width, 4, 3), classes=3), [1]),
        (Poisson(MLP(width, 4, 1)), [2]),
    ]
    return Columns(groups, trunk=MLP(2, 5) if trunk else None)


def with_gaps(likelihood: Callable[[nn.Module], nn.Module], *, append_mask: bool = False) -> Case:
    encoder = HideMissing(MLP(3 + 3 * append_mask, 4, 4), append_mask=append_mask)
    seen = SEEN[:, :3]
    return case(Masked(likelihood(MLP(2, 4, 3))), encoder, COUNTS * seen, seen)


def counts_with_gaps() -> Case:
    seen = SEEN[:, 1:]
    x = COUNTS * seen
    likelihood = Masked(NegativeBinomial(MLP(2, 4, 3), 3, library=True))
    encoder = HideMissing(LogCounts(MLP(3 + 1, 4, 4), library=True))
    return case(likelihood, encoder, x, x.sum(1, keepdim=True), seen)


def of_a_table() -> Case:
    """Return the VAE of a table's schema, with an ordinal column and one of classes."""
    values = {"real": [0.3, -0.7, 1.9, 0.2], "count": [5, 0, 2, 9], "bit": [True, False] * 2}
    levels = {"class": ["u", "v", "w", "u"], "grade": [1, 2, 3, 1]}
    made = pv.data.Table.of(pandas.DataFrame(values | levels), columns={"grade": "ordinal"})
    x, _ = made.encode(pandas.DataFrame(values | levels))
    seen = SEEN[:, [0, 1, 2, 3, 0]]
    return Case(pv.table_vae(made, 2, hidden=4), x * seen, (seen,))


COUNT_FAMILIES = {
    "Poisson": (Poisson, 1),
    "NegativeBinomial": (partial(NegativeBinomial, width=3), 1),
    "ZeroInflatedNegativeBinomial": (partial(ZeroInflatedNegativeBinomial, width=3), 2),
    "Multinomial": (Multinomial, 1),
}

CASES: dict[str, Callable[[], Case]] = {
    **{
        name: partial(of_counts, *family)
        for name, family in COUNT_FAMILIES.items()
        if name != "Multinomial"  # without a total it scores, but draws nothing
    },
    **{
        f"{name}, library": partial(of_counts, *family, library=True)
        for name, family in COUNT_FAMILIES.items()
    },
    "Columns": lambda: case(table(), MLP(4, 4, 4), TABLE),
    "Columns with a trunk": lambda: case(table(trunk=True), MLP(4, 4, 4), TABLE),
    "Masked Normal": partial(with_gaps, Normal),
    "Masked Laplace, mask shown": partial(with_gaps, likelihoods.Laplace, append_mask=True),
    "Masked NegativeBinomial, library": counts_with_gaps,
    "a table with gaps": of_a_table,
    "Masked Columns": lambda: case(Masked(table()), HideMissing(MLP(4, 4, 4)), TABLE * SEEN, SEEN),
}
