"""Find the rows that a command shows, and their conditions: categories and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.cli import names
from pyrovae.data import DataSet, Split

__all__ = ["conditions_by", "labels_by", "labels_of", "rows_of"]


def rows_of(read: DataSet, split: str) -> Split:
    """Return a split of data.

    Raises:
        ValueError: if it has no rows.
    """
    found: Split = read.splits[split]
    if len(found):
        return found
    others = [name for name, each in read.splits.items() if len(each)]
    raise ValueError(
        f"{read.name} has no {split} data, by the fractions or the split that it was read with; "
        f"there are {', '.join(others)} data: choose them with --split where the command has it, "
        "or name other data with --data"
    )


def labels_of(data: Split) -> Any:
    """Return the labels by name; as numbers where there are more than a map tells apart."""
    from pyrovae.plots.labeled import LOOKS

    return data.named_labels if len(data.classes) <= LOOKS else data.labels


def labels_by(by: str | None, read: DataSet, data: Split) -> Any:
    """Return the labels of data, or the categories or numbers of a covariate, [N].

    Raises:
        ValueError: if there is no covariate of that name, or it has several numbers.
    """
    if by is None:
        return labels_of(data)
    place, categories = _found(by, read)
    values: Tensor = data.context[place]
    if categories is not None:
        return [categories[code] for code in values.argmax(1).tolist()]
    if values.shape[1] == 1:
        return values[:, 0]
    raise ValueError(f"the covariate {by!r} has {values.shape[1]} numbers: a map needs one")


def conditions_by(by: str, read: DataSet, data: Split) -> dict[str, list[Any]]:
    """Return the context of the first datum with each category of a covariate, [1, ...] each.

    Raises:
        ValueError: if there is no covariate of that name, or it has no categories.
    """
    place, categories = _found(by, read)
    if categories is None:
        raise ValueError(
            f"the covariate {by!r} is a number, and has no categories to sample by: give a "
            "covariate of categories"
        )
    found = {}
    for code, name in enumerate(categories):
        context = [value[:1].clone() for value in data.context]
        context[place].zero_()[:, code] = 1.0
        found[str(name)] = context
    return found


def _those(kinds: Mapping[str, Any]) -> str:
    return f"there are {', '.join(kinds)}" if kinds else "the run has none"


def _found(by: str, read: DataSet) -> tuple[int, list[str] | None]:
    """Return the place of a covariate in the context, and its categories; None for a number."""
    kinds = read.reading.kinds
    if by not in kinds and (not kinds or by in ("label", "labels", read.reading.labels)):
        raise ValueError(
            f"no covariate {by!r}: {_those(kinds)}. Labels are for figures, and the programs do "
            "not get them: to sample by a column, train on it, --data.covariates COLUMN"
        )
    if by not in kinds:
        raise ValueError(names.unknown("covariate", by, kinds))
    kind = kinds[by]
    return list(kinds).index(by), list(kind) if isinstance(kind, list | tuple) else None
