"""Read arrays from files of NumPy and torch: .npy, .npz and .pt. Nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import factor_files
from pyrovae.data.reading import Contents, NoColumn, Reading
from pyrovae.data.splits import SPLITS

__all__ = ["numpy_arrays", "of_arrays", "read_npy", "read_npz", "read_pt"]

MASK: Final = "mask"
"""The name of the array that tells steps from padding."""

T = TypeVar("T")


def read_npy(path: Path, reading: Reading) -> Contents:
    """Read the array of a .npy file.

    Raises:
        ValueError: if the file is damaged, pickled, or asked for more than one array.
    """
    return of_arrays(numpy_arrays(path), reading, str(path))


def read_npz(path: Path, reading: Reading) -> Contents:
    """Read the arrays of a .npz file (see `of_arrays`), or of dSprites or MPI3D.

    Raises:
        ValueError: if the file is damaged or pickled, and as `of_arrays`.
    """
    known = _understood(path, lambda: factor_files.of_npz(path, reading))
    return of_arrays(numpy_arrays(path), reading, str(path)) if known is None else known


def read_pt(path: Path, reading: Reading) -> Contents:
    """Read a tensor, or a dictionary or tuple of tensors, that `torch.save` wrote.

    Raises:
        ValueError: if the file is damaged or holds anything but tensors, and as `of_arrays`.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # A damaged file may make torch fail in any way.
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and is not unpickled: save a tensor, "
            "or a dictionary of tensors, with torch.save"
        ) from error
    if isinstance(found, tuple | list):
        found = {str(number): value for number, value in enumerate(found)}
    arrays = found if isinstance(found, dict) else {path.stem: found}
    for name, value in arrays.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds {type(value).__name__} at {name!r}: save a tensor, or a dictionary "
                "of tensors"
            )
    return of_arrays({str(name): _dense(value) for name, value in arrays.items()}, reading, path)


def of_arrays(arrays: Mapping[str, Any], reading: Reading, where: str | Path) -> Contents:
    """Find x, its labels, its covariates and its splits among named arrays.

    The only array that is not asked for otherwise is x. Arrays such as train and test, or x_train
    and x_test beside y_train and y_test, are the splits of one data set. Of several others, `key`
    says which is x. Beside sequences x [N, T, D], an array `mask` [N, T] tells their steps from
    padding.

    Args:
        arrays: the arrays by name.
        reading: what is asked for.
        where: the name of the file, for error messages.

    Raises:
        ValueError: if an array that is asked for does not exist, or it cannot be told which is x.

    Example:
        >>> found = of_arrays({"train": np.zeros((3, 2)), "test": np.ones((1, 2))}, Reading(), "")
        >>> found.x.shape, found.splits.tolist()
        ((4, 2), ['train', 'train', 'train', 'test'])
    """
    asked = reading.asked()
    for name in asked if reading.one_key is None else [reading.one_key, *asked]:
        if name not in arrays:
            raise NoColumn(name, f"{where} has no array {name!r}: there are {', '.join(arrays)}")
    beside = {name: arrays[name] for name in asked}
    rest = [name for name in arrays if name not in asked]
    if reading.one_key is not None:
        x = arrays[reading.one_key]
        return Contents(x, beside=beside, mask=_mask_of(x, arrays, asked))
    for name in rest if len(rest) == 2 else ():
        mask = _mask_of(arrays[name], arrays, asked)
        if mask is not None:
            return Contents(arrays[name], beside=beside, mask=mask)
    given = _of_splits(arrays, rest, where) if len(rest) > 1 and not beside else None
    if given is not None:
        return given
    if len(rest) != 1:
        raise ValueError(
            f"{where} holds the arrays {', '.join(arrays)}: say which is x with the option key"
        )
    return Contents(arrays[rest[0]], beside=beside)


def _mask_of(x: Any, arrays: Mapping[str, Any], asked: Sequence[str]) -> Any:
    """Return the array that tells the steps of sequences [N, T, D] from padding; None without."""
    mask = None if MASK in asked else arrays.get(MASK)
    if mask is None or np.ndim(x) != 3 or np.shape(mask) != np.shape(x)[:2]:
        return None
    return mask


def _of_splits(arrays: Mapping[str, Any], names: list[str], where: str | Path) -> Contents | None:
    """Return the splits that the names of arrays give; None if they do not."""
    x: dict[str, Any] = {}
    y: dict[str, Any] = {}
    for name in names:
        stem = name.lower()
        kind = y if stem.startswith("y_") else x
        split = SPLITS.get(stem.removeprefix("y_" if kind is y else "x_"))
        if split is None or split in kind:
            return None
        kind[split] = np.asarray(arrays[name])
    if not {"train", "test"} <= x.keys() or (y and y.keys() != x.keys()):
        return None
    shapes = {part.shape[1:] for part in x.values()}
    if len(shapes) > 1:
        raise ValueError(f"the arrays {', '.join(names)} have data of the shapes {shapes}")
    kinds = {name: str(part.dtype) for name, part in x.items()}
    if "uint8" in kinds.values() and len(set(kinds.values())) > 1:
        met = ", ".join(f"{kind} in {name}" for name, kind in kinds.items())
        raise ValueError(
            f"the data in {where} are {met}: 8-bit numbers are pixels from 0 to 255, others are "
            "taken as they are. Save all splits in one type"
        )
    splits = np.concatenate([np.full(len(part), split) for split, part in x.items()])
    labels = np.concatenate([y[split] for split in x]) if y else None
    return Contents(np.concatenate(list(x.values())), labels=labels, splits=splits)


def numpy_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file of NumPy by name; the only one has that of the file.

    Raises:
        ValueError: if the file is damaged or pickled.
    """

    def read() -> dict[str, Any]:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {path.stem: found}
            return {name: found[name] for name in found.files}

    return _understood(path, read)


def _understood(path: Path, read: Callable[[], T]) -> T:
    """Return what a function reads, or say that the file is damaged or pickled."""
    try:
        return read()
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which are not unpickled, or is damaged: save "
                "numbers, such as x.astype('float32')"
            ) from error
        raise ValueError(f"{path} is damaged: {error}") from error


def _dense(value: Tensor) -> Any:
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    return dense.float().numpy() if dense.dtype == torch.bfloat16 else dense.numpy()
