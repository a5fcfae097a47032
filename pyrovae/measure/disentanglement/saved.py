"""Write an assignment of factors to units as JSON, and read it back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.files import json_as_bytes, schemas, write_atomically
from pyrovae.measure.disentanglement.assignment import Assignment
from pyrovae.measure.disentanglement.metric import Scores

__all__ = ["FACTORS", "read_assignment", "read_factors", "save_factors"]

FACTORS: Final = "factors.json"
"""The file of `pyrovae factors` in a run's folder."""


def save_factors(
    path: str | Path, found: Assignment, scores: Scores | None = None, **details: Any
) -> None:
    """Write an assignment, and scores beside it, as JSON.

    Args:
        path: the file, such as `RUN/factors.json`.
        found: the result of `assign`.
        scores: the result of `disentanglement`.
        **details: further entries, such as the command.

    Raises:
        OSError: if the file cannot be written; an existing file is left unchanged.
    """
    said = {"assignment": found.to_json(), "scores": scores.to_json() if scores else None}
    write_atomically(Path(path), json_as_bytes({**said, **details}))


def read_factors(path: str | Path) -> dict[str, Any]:
    """Read what `save_factors` wrote, as JSON values.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    path = Path(path)
    try:
        return schemas.factors(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is half-written or damaged: {error}: run `pyrovae factors "
            f"{quote(str(path.parent))}`"
        ) from error


def read_assignment(path: str | Path) -> Assignment:
    """Read the assignment that `pyrovae factors` or `save_factors` wrote.

    Its `held` names the factor of each unit, for the labels of figures.

    Args:
        path: the file, such as `RUN/factors.json`. `Run(folder).assignment()` reads that of a run,
            if it has one.

    Raises:
        ValueError: if the file is damaged, or its parts do not belong together.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile, torch, pyrovae as pv
        >>> from pyrovae.measure.disentanglement.saved import read_assignment, save_factors
        >>> factors = torch.randint(3, (500, 2))
        >>> found = pv.assign(factors, factors, names=["hue", "size"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_factors(f"{folder}/factors.json", found)
        ...     read_assignment(f"{folder}/factors.json").held
        {'z[0]': 'hue', 'z[1]': 'size'}
    """
    said = read_factors(path)["assignment"]
    units, factors = said["units"], said["factors"]
    matrices = [_matrix(said[name]) for name in ("information", "error")]
    entropy = torch.tensor(said["entropy"], dtype=torch.float64)
    shapes = {tuple(matrix.shape) for matrix in matrices}
    if shapes != {(len(units), len(factors))} or len(entropy) != len(factors) or not len(factors):
        raise ValueError(
            f"{path} has {len(units)} units, {len(factors)} factors, {len(entropy)} entropies and "
            f"information of the shapes {sorted(shapes)}, which do not fit: run `pyrovae factors "
            f"{Path(path).parent}` again"
        )
    return Assignment(
        units=tuple(units),
        factors=tuple(factors),
        information=matrices[0],
        error=matrices[1],
        entropy=entropy,
        spread=tuple(said.get("spread", ())),
        data=said["data"],
        bins=said["bins"],
        together=tuple((a, b, nats) for a, b, nats in said.get("together", ())),
    )


def _matrix(rows: Sequence[Sequence[float | None]]) -> Tensor:
    """Return numbers as a matrix, with NaN for those that are not known."""
    width = max((len(row) for row in rows), default=0)
    if any(len(row) != width for row in rows):
        return torch.empty(0)
    known = [[math.nan if value is None else value for value in row] for row in rows]
    return torch.tensor(known, dtype=torch.float64)
