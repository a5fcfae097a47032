"""Turn arrays of any type and layout into flat floats [N, D], with their shape and domain.

The type says what numbers mean: uint8 images are intensities, whole numbers are counts, floats
are real numbers. What neither the type nor the shape can tell is asked for.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.arrays import native
from pyrovae.data.reading import Contents, Reading

__all__ = ["EXACT", "flat", "valued"]

EXACT: Final = 2**24
"""The whole numbers up to which float32 is exact."""

CHANNELS: Final = (1, 3)


def flat(contents: Contents, reading: Reading, where: str) -> tuple[Tensor, tuple[int, ...]]:
    """Return the data as rows [N, D] of their own type, and the shape of one datum.

    Args:
        contents: what was read.
        reading: the options `shape` and `channels`, where they are needed.
        where: the name of the data, for error messages.

    Returns:
        The rows, and (channels, height, width) of an image, or (D,).

    Raises:
        ValueError: if it cannot be told what the axes are; the message names the option that
            tells.

    Example:
        >>> x, shape = flat(Contents(np.zeros((5, 8, 8, 3), "uint8")), Reading(), "images")
        >>> x.shape, shape
        (torch.Size([5, 192]), (3, 8, 8))
    """
    x = _tensor(contents.x, where)
    met = tuple(x.shape)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{where} has shape {met}: x has one row for each datum, [N, D]")
    if x.ndim == 2:
        shape: tuple[int, ...] = _of_rows(x, reading, where)
    elif x.ndim == 3:
        shape = _of_planes(x, contents, reading, where)
    elif x.ndim == 4:
        if _channels(met, reading, where) == "last":
            x = x.movedim(-1, 1)
        shape = tuple(x.shape[1:])
    else:
        raise ValueError(f"{where} has shape {met}: reshape it to [N, D] or to images")
    if reading.shape is not None and tuple(reading.shape) != shape:
        raise ValueError(
            f"{where} has data of shape {shape}; the option shape says {tuple(reading.shape)}"
        )
    return x.reshape(len(x), -1), shape


def _of_rows(x: Tensor, reading: Reading, where: str) -> tuple[int, ...]:
    width = x.shape[1]
    if reading.shape is not None and math.prod(reading.shape) == width:
        return tuple(reading.shape)
    if x.dtype == torch.uint8 and x.max() > 1 and reading.shape is None:
        side = math.isqrt(width)
        example = (1, side, side) if side * side == width else "(channels, height, width)"
        raise ValueError(
            f"{where} has rows of uint8, which may be images or counts: for images give the "
            f"option shape, such as {example}; save counts as int32"
        )
    return (width,)


def _of_planes(x: Tensor, contents: Contents, reading: Reading, where: str) -> tuple[int, ...]:
    shape = (1, *x.shape[1:])
    told = contents.images or reading.shape is not None or x.dtype in (torch.uint8, torch.bool)
    if not told:
        raise ValueError(
            f"{where} has shape {tuple(x.shape)}, which may be gray images: if so give the option "
            f"shape, {shape}; sequences [N, T, D] have an array mask [N, T] of their steps in the "
            "same file; anything else is reshaped to [N, D]"
        )
    return shape


def _channels(met: tuple[int, ...], reading: Reading, where: str) -> str:
    if reading.channels is not None:
        return reading.channels
    first = met[1] in CHANNELS and min(met[2:]) > met[1]
    last = met[3] in CHANNELS and min(met[1:3]) > met[3]
    if reading.shape is not None:
        wanted = tuple(reading.shape)
        first, last = wanted == met[1:], wanted == (met[3], *met[1:3])
    if first == last:
        raise ValueError(
            f"{where} has shape {met}, and the axis of the channels cannot be told: give the "
            "option channels, 'first' for [N, C, H, W] or 'last' for [N, H, W, C]"
        )
    return "first" if first else "last"


def valued(
    x: Tensor, shape: tuple[int, ...], *, counts: bool, where: str
) -> tuple[Tensor, constraints.Constraint]:
    """Return rows as float32, and the domain of their values.

    Args:
        x: rows [N, D] of any type.
        shape: the shape of one datum; three axes are those of an image.
        counts: whether they are known to be counts.
        where: the name of the data, for error messages.

    Raises:
        ValueError: if values are missing or infinite, counts are not whole numbers, or it cannot
            be told what the pixels of an image mean.

    Example:
        >>> valued(torch.tensor([[0, 255]]).byte(), (1, 1, 2), counts=False, where="")
        (tensor([[0., 1.]]), Boolean())
        >>> valued(torch.tensor([[0, 7]]), (2,), counts=False, where="")[1]
        IntegerGreaterThan(lower_bound=0)
    """
    kind = x.dtype
    whole = not kind.is_floating_point
    low, high = float(x.min()), float(x.max())
    if not math.isfinite(low + high):
        _refuse_gaps(x, where)
    image = len(shape) == 3
    if image and kind != torch.uint8:
        _check_pixels(x, high, where)
    found = x.float() / 255 if image and kind == torch.uint8 and high > 1 else x.float()
    if counts:
        _check_counts(found, where)
    if 0 <= low and bool(((found == 0) | (found == 1)).all()):
        return found, constraints.boolean if not counts else constraints.nonnegative_integer
    if image and low >= 0 and float(found.max()) <= 1:
        return found, constraints.unit_interval
    if counts or (whole and low >= 0):
        if high > EXACT:
            raise ValueError(
                f"{where} has counts up to {high:,.0f}, which float32 does not hold exactly: "
                "rescale them, or save them as floats"
            )
        return found, constraints.nonnegative_integer
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{where} has values up to {max(-low, high):g}, beyond float32: rescale")
    return found, constraints.real


def _tensor(x: Any, where: str) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return torch.from_numpy(native(np.asarray(x), where, pixels=True))


def _refuse_gaps(x: Tensor, where: str) -> None:
    rows = (~torch.isfinite(x)).any(1).nonzero().flatten()
    raise ValueError(
        f"{where} has NaN or infinite values in {len(rows)} of {len(x)} rows, the first at row "
        f"{int(rows[0])}: drop these rows, or replace the values and mask them"
    )


def _check_pixels(x: Tensor, high: float, where: str) -> None:
    """Ask what pixels mean that are whole numbers above 1, but not uint8."""
    if high > 1 and bool((x == x.round() if x.is_floating_point() else x == x).all()):
        raise ValueError(
            f"{where} has images of whole numbers up to {high:g} stored as {_name(x.dtype)}: save "
            "pixels from 0 to 255 as uint8, or divide them by the largest possible"
        )


def _check_counts(x: Tensor, where: str) -> None:
    bad = (x < 0) | (x != x.round())
    rows = bad.any(1).nonzero().flatten()
    if len(rows):
        value = float(x[rows[0]][bad[rows[0]]][0])
        raise ValueError(
            f"{where} holds no counts: {value:g} at row {int(rows[0])} is no whole number from 0 "
            "on. Choose the raw counts with the option key"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
