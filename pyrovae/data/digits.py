"""Refuse numbers whose variation a shorter dtype rounds away, such as seconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_arrays", "check_digits"]

ROUNDED: Final = 0.01
"""The largest rounding of a column, in its standard deviations."""


def check_digits(x: Tensor, found: Tensor, where: str, columns: Sequence[str] = ()) -> None:
    """Check that a dtype keeps how columns vary, which float32 does not for seconds since 1970.

    Args:
        x: rows [N, D] of any type.
        found: the rows in a floating-point dtype.
        where: the name of the data, for error messages.
        columns: the names of the dimensions, for error messages.

    Raises:
        ValueError: if it rounds a column by more than 0.01 of its standard deviation.

    Example:
        >>> x = torch.arange(40).double().reshape(40, 1)
        >>> check_digits(x, x.float(), "x")
        >>> check_digits(x + 1.6e9, (x + 1.6e9).float(), "x")
        Traceback (most recent call last):
        ValueError: column 1 of x deviates from its mean 1.6e+09 by 11.5, and float32 rounds it...
    """
    if not len(x) or x.dtype.itemsize < 4 or x.dtype == found.dtype:
        return
    near = _nearly_constant(found)
    if not len(near):
        return
    exact, found = x[:, near].double(), found[:, near]
    rounded = (exact - found).abs().amax(0)
    # A constant with errors of float64 is meant as a constant.
    noise = 1e-12 * exact.abs().amax(0)
    spread = exact.std(0, correction=0)
    lost = ((rounded > ROUNDED * spread) & (spread > noise)).nonzero().flatten().tolist()
    if lost:
        place = lost[0]
        number = int(near[place])
        name = repr(columns[number]) if columns else str(number + 1)
        dtype = str(found.dtype).removeprefix("torch.")
        raise ValueError(
            f"column {name} of {where} deviates from its mean {float(exact[:, place].mean()):.6g} "
            f"by {float(spread[place]):.3g}, and {dtype} rounds it by up to "
            f"{float(rounded[place]):.3g}: subtract a number near the mean"
        )


def check_arrays(values: Sequence[Any], rows: Sequence[Any]) -> None:
    """Check that tensors keep how the arrays of float64 vary that they were made of.

    Args:
        values: x and the context as they were given.
        rows: what they became; only tensors of the same shape are checked.

    Raises:
        ValueError: as `check_digits`.

    Example:
        >>> seconds = 1.6e9 + np.arange(40.0).reshape(40, 1)
        >>> check_arrays([seconds], [torch.from_numpy(seconds)])
        >>> check_arrays([seconds], [torch.from_numpy(seconds).float()])
        Traceback (most recent call last):
        ValueError: column 1 of x deviates from its mean 1.6e+09 by 11.5, and float32 rounds it...
    """
    for place, (value, found) in enumerate(zip(values, rows, strict=True)):
        if isinstance(value, Tensor) or not isinstance(found, Tensor):
            continue
        array = np.asarray(value) if hasattr(value, "__array__") else None
        if array is None or array.dtype != np.float64 or array.shape != found.shape:
            continue
        where = f"number {place} of the context" if place else "x"
        # torch warns of arrays that cannot be written to, such as memory-mapped ones.
        flat = torch.from_numpy(np.require(array, requirements="W")).reshape(len(array), -1)
        check_digits(flat, found.reshape(len(array), -1), where)


def _nearly_constant(x: Tensor) -> Tensor:
    """Return the places of the columns that may have lost how they vary.

    A number is rounded by at most half an eps of the largest one. If that exceeds a hundredth of
    the standard deviation before, the deviation after it is below 101 times as much.
    """
    most = torch.maximum(x.amax(0), -x.amin(0))
    half = torch.finfo(x.dtype).eps / 2
    return (x.std(0, correction=0) <= (2 + 1 / ROUNDED) * half * most).nonzero().flatten()
