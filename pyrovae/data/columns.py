"""Code labels as integers, and covariates as tensors that programs take as context."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.reading import Kind

__all__ = ["classes_of", "covariate", "labeled"]


def labeled(values: Any, where: str) -> Tensor:
    """Return labels as integers [N]. Strings are numbered in alphabetical order.

    Raises:
        ValueError: if labels are missing, or numbers that are not whole.

    Example:
        >>> labeled(["b", "a", "b"], "labels")
        tensor([1, 0, 1])
    """
    values = np.asarray(values)
    values = values.reshape(len(values)) if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1:
        raise ValueError(f"{where} has shape {values.shape}: give one label for each row, [N]")
    if values.dtype.kind in "biu":
        return torch.from_numpy(values.astype(np.int64))
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{where} has missing or infinite values: drop these rows")
        if not np.array_equal(values, np.round(values)):
            raise ValueError(f"{where} has numbers that are not whole: labels are classes")
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(np.unique(_words(values, where), return_inverse=True)[1])


def classes_of(values: Any, where: str) -> tuple[str, ...]:
    """Return the words that `labeled` numbers, in the order of their numbers; () for numbers.

    Example:
        >>> classes_of(["b", "a", "b"], "labels"), classes_of([3, 1], "labels")
        (('a', 'b'), ())
    """
    values = np.asarray(values)
    if values.dtype.kind in "biuf":
        return ()
    return tuple(np.unique(_words(values.reshape(len(values)), where)).tolist())


def covariate(values: Any, kind: Kind, where: str) -> tuple[Tensor, Kind]:
    """Return a covariate as floats [N, C], and what it was taken for.

    Args:
        values: one value for each row, or several numbers [N, C].
        kind: "number"; "category"; the categories themselves, in order; or None to tell by the
            type: strings and booleans are categories, floats are numbers, others are refused.
        where: the name of the covariate, for error messages.

    Returns:
        The numbers, or one-hot vectors of the categories in alphabetical order; and the
        categories, or "number".

    Raises:
        ValueError: if it cannot be told, values are missing, or a category is not among those
            given.

    Example:
        >>> covariate(["b", "a", "b"], None, "batch")
        (tensor([[0., 1.],
                [1., 0.],
                [0., 1.]]), ['a', 'b'])
    """
    values = np.asarray(values)
    numbers = values.dtype.kind in "iuf"
    if kind is None and values.dtype.kind in "iu":
        name = where.split()[0]
        raise ValueError(
            f"covariate {where} holds whole numbers, which may be categories or amounts: give "
            f'covariates={{{name}: "category"}} or {{{name}: "number"}}'
        )
    other = _other_than_words(values) if kind is None and not numbers else None
    if other is not None:
        name = where.split()[0]
        raise ValueError(
            f"covariate {where} holds {other}, neither words nor numbers: convert it to numbers, "
            f'or give covariates={{{name}: "category"}} if its values are categories'
        )
    if kind == "number" or (kind is None and numbers):
        if not numbers:
            raise ValueError(f"covariate {where} holds {values.dtype}, not numbers")
        if not np.isfinite(values).all():
            raise ValueError(f"covariate {where} has missing or infinite values: drop these rows")
        return torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1), "number"
    words = _words(values, f"covariate {where}")
    known = sorted(set(words.tolist())) if kind in (None, "category") else list(kind or ())
    unknown = sorted(set(words.tolist()) - set(known))
    if unknown:
        raise ValueError(
            f"covariate {where} has the value {unknown[0]!r}, which is none of those trained on: "
            f"{', '.join(map(repr, known[:8]))}"
        )
    places = {word: place for place, word in enumerate(known)}
    codes = torch.tensor([places[word] for word in words.tolist()])
    return torch.nn.functional.one_hot(codes, len(known)).float(), known


def _other_than_words(values: Any) -> str | None:
    """Return the type of values that are neither strings nor booleans, such as dates."""
    if values.dtype.kind in "mM":
        return "dates"
    kinds = {type(v) for v in values.ravel().tolist() if v is not None and v == v}
    other = sorted(kind.__name__ for kind in kinds - {str, bool})
    return other[0] if other else None


def _words(values: Any, where: str) -> Any:
    flat = values.tolist()
    missing = [v for v in flat if v is None or v != v]
    if values.ndim != 1 or missing:
        problem = f"{len(missing)} missing values" if missing else f"shape {values.shape}"
        raise ValueError(f"{where} has {problem}: give one value for each row")
    return np.array([str(value) for value in flat])
