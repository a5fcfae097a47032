"""Read counts of single cells from .h5ad files, with AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data.reading import Contents, NoColumn, Reading, extra

__all__ = ["read_h5ad"]


def read_h5ad(path: Path, reading: Reading) -> Contents:
    """Read the counts of a file, with columns of `obs` as labels, covariates or splits.

    The option `key` is "raw", "X" or the name of a layer. Without it, the counts are the only one
    of them that holds whole numbers.

    Raises:
        ValueError: if anndata is not installed, the file is not of its kind, a column or layer
            does not exist, or no or several matrices hold counts and `key` does not choose one.
    """
    cells = _opened(path)
    for name in reading.asked():
        if name not in cells.obs.columns:
            raise NoColumn(
                name,
                f"{path} has no column {name!r} in obs: there are {', '.join(cells.obs.columns)}",
            )
    matrices = {} if cells.raw is None else {"raw": cells.raw.X}
    matrices |= dict(cells.layers)
    if cells.X is not None:
        matrices["X"] = cells.X
    key = reading.one_key or _only_counts(matrices, path)
    if key not in matrices:
        raise ValueError(f"{path} has no counts {key!r}: there are {', '.join(matrices)}")
    names = cells.raw.var_names if key == "raw" else cells.var_names
    return Contents(
        _dense(matrices[key]),
        beside={name: cells.obs[name].to_numpy() for name in reading.asked()},
        columns=tuple(map(str, names)),
        images=False,
        counts=True,
    )


def _opened(path: Path) -> Any:
    """Return what a file holds, or say that it is no file of AnnData."""
    read = extra("anndata", "cells").read_h5ad
    try:
        return read(path)
    except Exception as error:  # A damaged file may make HDF5 fail in any way.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no file of AnnData, or is damaged: {said}") from error


def _only_counts(matrices: dict[str, Any], path: Path) -> str:
    whole = [name for name, values in matrices.items() if _is_whole(values)]
    if len(whole) != 1:
        met = f"each of {', '.join(whole)}" if whole else f"none of {', '.join(matrices)}"
        advice = "choose one with the option key" if whole else "add a layer with the raw counts"
        raise ValueError(f"{path} has whole numbers in {met}: {advice}")
    return whole[0]


def _is_whole(values: Any) -> bool:
    entries = values.data if hasattr(values, "tocsr") else np.asarray(values)
    return bool((entries >= 0).all() and (entries == np.round(entries)).all())


def _dense(values: Any) -> Any:
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)
