"""Impute the missing values of a frame."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from pyrovae.data.table import Table
from pyrovae.measure.impute import impute
from pyrovae.types import ContextValue, Target

__all__ = ["impute_table"]


def impute_table(
    target: Target, table: Table, frame: Any, *context: ContextValue, particles: int = 1000
) -> Any:
    """Return a frame with its missing values imputed; observed values stay as they are.

    A number is the posterior mean, a count that mean rounded, and a class the most probable one
    (see `impute`). For draws of all missing values, to be analyzed each (multiple imputation),
    decode them: `[table.fill(frame, x) for x in pv.impute(..., draws=5).draws]`.

    Args:
        target: a VAE, or a pair (model, guide), that takes the mask as its last context, such as
            `table_vae` returns.
        table: the schema that the VAE was trained with.
        frame: a frame with the table's columns, of any library.
        *context: the context of the programs before the mask, such as covariates.
        particles: K, the number of particles.

    Raises:
        ValueError: as `Table.encode` and `impute`.

    Example:
        >>> import pandas, pyrovae as pv
        >>> people = pandas.DataFrame({"height": [1.6, None, 1.7], "sex": ["f", "m", None]})
        >>> table = pv.data.Table.of(people)
        >>> vae = pv.table_vae(table, latents=1, hidden=8)
        >>> bool(pv.impute_table(vae, table, people, particles=10).isna().any(axis=None))
        False
    """
    x, mask = table.encode(frame)
    found = impute(target, x, *context, mask, particles=particles, modes=True)
    return table.fill(frame, cast(Tensor, found.modes))
