"""Divide the rows of a data set into train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.reading import Reading

__all__ = ["SPLITS", "divided"]

SPLITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that a name stands for, in lower case."""


def divided(size: int, names: Any, reading: Reading, where: str) -> dict[str, Tensor]:
    """Return the rows of train, validation and test.

    Named rows stay in their order. If no row is named validation, rows of train are drawn for it,
    by the seed, in the proportion of the fractions. Without names, all rows are divided so, and
    stay in their order if one split has all of them.

    Args:
        size: the number of rows.
        names: the name of each row's split, or None.
        reading: the fractions and the seed.
        where: the name of the data, for error messages.

    Raises:
        ValueError: if a name is unknown, there is none for each row, or there are no rows at all
            or in a split.

    Example:
        >>> rows = divided(10, None, Reading(), "ten rows")
        >>> {name: len(chosen) for name, chosen in rows.items()}
        {'train': 8, 'validation': 1, 'test': 1}
    """
    if not size:
        raise ValueError(f"{where} has no rows")
    share = dict(zip(("train", "validation", "test"), reading.fractions, strict=True))
    if names is None:
        rows = _by_seed(torch.arange(size), share, reading.seed)
    else:
        rows = _by_name(size, names, where)
        whole = share["train"] + share["validation"]
        if not len(rows["validation"]) and share["train"] and share["validation"]:
            parts = {name: share[name] / whole for name in ("train", "validation")}
            rows |= _by_seed(rows["train"], parts, reading.seed)
    for name in ("test", "train", "validation"):
        needed = share[name] > 0 if names is None else name == "test" or share["train"] > 0
        if needed and not len(rows[name]):
            raise ValueError(
                f"{where} has no rows in {name}, of {size:,}: say how they are split with the "
                "option split, a column of names, or with fractions"
            )
    return rows


def _by_seed(rows: Tensor, share: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Divide rows at random. The first split has what rounding leaves."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    if sum(part > 0 for part in share.values()) == 1:
        # What is measured of each datum is then that of each row of the file.
        order = torch.arange(len(rows))
    first, *others = share
    sizes = [round(share[name] * len(rows)) for name in others]
    sizes = [max(0, len(rows) - sum(sizes)), *sizes]
    sizes[-1] = len(rows) - sum(sizes[:-1])
    return dict(zip((first, *others), rows[order].split(sizes), strict=True))


def _by_name(size: int, names: Any, where: str) -> dict[str, Tensor]:
    names = np.asarray(names)
    if names.shape != (size,):
        raise ValueError(
            f"{where} has {size:,} rows, and the names of splits have shape {names.shape}: give "
            "one name for each row"
        )
    met, rows = np.unique(names.astype(str), return_inverse=True)
    unknown = [name for name in met.tolist() if name.lower() not in SPLITS]
    if unknown:
        raise ValueError(
            f"{where} has a row in the split {unknown[0]!r}: the names are train, validation and "
            "test"
        )
    splits = np.array([SPLITS[name.lower()] for name in met.tolist()])[rows]
    return {
        name: torch.from_numpy(np.flatnonzero(splits == name))
        for name in ("train", "validation", "test")
    }
