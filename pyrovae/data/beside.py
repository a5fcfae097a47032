"""What stands beside x: labels with their names, and covariates, which are context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.columns import classes_of, covariate, labeled
from pyrovae.data.digits import check_digits
from pyrovae.data.reading import Contents, Kind, NoColumn, Reading

__all__ = ["Beside"]


@dataclass(frozen=True)
class Beside:
    """The labels and the covariates of all rows of a data set.

    Attributes:
        labels: integers [N]; None if there are none.
        classes: the names of the labels, in the order of their numbers; () if they have none.
        covariates: the numbers [N, C] of each covariate, by name.
        kinds: what each covariate was taken for, by name.
    """

    labels: Tensor | None
    classes: tuple[str, ...]
    covariates: dict[str, Tensor]
    kinds: dict[str, Kind]

    @classmethod
    def of(cls, what: str, contents: Contents, reading: Reading, rows: int) -> Self:
        """Return what a reader found beside x.

        Args:
            what: the name of the data, for error messages.
            contents: what was read.
            reading: what was asked for.
            rows: the number of rows of x.

        Raises:
            ValueError: if a column that is asked for does not exist or has another number of rows
                than x, and as `labeled` and `covariate`.

        Example:
            >>> contents = Contents(beside={"kind": ["b", "a"]})
            >>> found = Beside.of("these data", contents, Reading(labels="kind"), 2)
            >>> found.labels, found.classes
            (tensor([1, 0]), ('a', 'b'))
        """
        missing = [name for name in reading.asked() if name not in contents.beside]
        if missing and not (missing == [reading.labels] and contents.labels is not None):
            message = f"{what} has no column {missing[0]!r} beside x: leave the option out"
            raise NoColumn(missing[0], message)
        labels, classes = _labels(what, contents, reading)
        covariates: dict[str, Tensor] = {}
        kinds: dict[str, Kind] = {}
        for name, kind in reading.kinds.items():
            where = f"{name!r} of {what}"
            covariates[name], kinds[name] = covariate(contents.beside[name], kind, where)
        named = covariates if labels is None else {"labels": labels} | covariates
        for name, tensor in named.items():
            if len(tensor) != rows:
                raise ValueError(f"{what} has {rows:,} rows of x and {len(tensor):,} of {name}")
        return cls(labels, classes, covariates, kinds)

    @property
    def context(self) -> tuple[Tensor, ...]:
        """The covariates in the order in which programs take them."""
        return tuple(self.covariates.values())

    def check_digits(self, what: str, contents: Contents, train: Tensor) -> None:
        """Check that float32 keeps how the numbers among the training data's covariates vary.

        Raises:
            ValueError: as `pyrovae.data.digits.check_digits`.
        """
        for name, value in self.covariates.items():
            exact = np.asarray(contents.beside[name])
            if exact.dtype.kind in "iuf" and exact.size == value.numel():
                rows = torch.from_numpy(exact.reshape(value.shape).astype(np.float64))
                check_digits(rows[train], value[train], f"the covariate {name!r} of {what}")


def _labels(
    what: str, contents: Contents, reading: Reading
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the labels and their names."""
    values: Any = contents.beside.get(str(reading.labels), contents.labels)
    if values is None:
        return None, ()
    where = f"the labels of {what}"
    return labeled(values, where), classes_of(values, where) or contents.classes
