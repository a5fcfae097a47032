"""Several modalities in one tensor: which columns are whose, and which modality a datum has.

The data stay one tensor x [N, D] with a boolean mask [N, M] beside it, so that batches, devices,
bounds and diagnostics treat them as any other data with a context.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.parts import Part

__all__ = ["Modalities"]


class Modalities(Part):
    """The names and widths of M modalities that stand side by side in x [N, D].

    Likelihood and guide are given the same object, so they agree on the columns.

    Args:
        **widths: the number of columns of each modality, by name, in the order of the columns.

    Attributes:
        widths: the number of columns of each modality, by name.

    Raises:
        ValueError: if there is no modality, or a width is no whole number from 1 on.

    Example:
        >>> import torch, pyrovae as pv
        >>> both = pv.nets.Modalities(image=4, label=1)
        >>> x, mask = both.pack({"image": torch.zeros(2, 2, 2), "label": torch.tensor([7, 3])})
        >>> x
        tensor([[0., 0., 0., 0., 7.],
                [0., 0., 0., 0., 3.]])
        >>> both.split(x)["label"], both.only(mask, "label")
        (tensor([[7.],
                [3.]]), tensor([[False,  True],
                [False,  True]]))
    """

    def __init__(self, **widths: int) -> None:
        super().__init__()
        bad = {name: w for name, w in widths.items() if not isinstance(w, int) or w < 1}
        if bad or not widths:
            raise ValueError(
                "Modalities takes the number of columns of each modality by name, such as "
                f"image=64, label=1; got {bad or 'none'}"
            )
        self.widths = dict(widths)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the columns."""
        return tuple(self.widths)

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of each modality."""
        ends = list(itertools.accumulate(self.widths.values(), initial=0))
        places = map(slice, ends, ends[1:])
        return dict(zip(self.names, places, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `split(x)`."""
        return self.split(x)

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """Return the modalities of x [..., D] by name, [..., D_m] each.

        Raises:
            ValueError: if x has another number of columns.
        """
        total = sum(self.widths.values())
        if x.ndim < 1 or x.shape[-1] != total:
            raise ValueError(
                f"the modalities {self.widths} take x of {total} columns; got shape "
                f"{tuple(x.shape)}: make x with Modalities.pack"
            )
        return {name: x[..., columns] for name, columns in self.columns.items()}

    def pack(
        self, pieces: Mapping[str, Any], *, value: float | Mapping[str, float] = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return data of several modalities as x [N, D], and the mask [N, M] of those present.

        A modality is missing from a datum if all its entries there are NaN, and from all data if
        it is None.

        Args:
            pieces: the tensor or array [N, ...] of each modality by name, or None. Axes beyond
                the first are flattened.
            value: the value of x where a modality is missing, one for all or some by name, others
                0. It is not read, but must lie in the domain of the likelihood: 1/2 for `Beta`.

        Raises:
            ValueError: if the names, the numbers of data or the widths do not fit, all modalities
                are None, or a datum has NaN for some entries of a modality only.
        """
        self.check_names(pieces, "pack")
        rows = {name: _rows(piece) for name, piece in pieces.items() if piece is not None}
        sizes = {name: len(row) for name, row in rows.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                "the modalities must have the same number of data, and one of them must be given; "
                f"got {sizes or 'None for each'}"
            )
        floats = [row.dtype for row in rows.values() if row.is_floating_point()]
        kind = functools.reduce(torch.promote_types, floats or [torch.get_default_dtype()])
        (size,), like = set(sizes.values()), next(iter(rows.values()))
        values = value if isinstance(value, Mapping) else dict.fromkeys(self.names, value)
        found, seen = [], []
        for name, width in self.widths.items():
            gap = torch.full((size, width), torch.nan, dtype=kind, device=like.device)
            piece, present = _filled(
                name, rows.get(name, gap).to(kind), width, values.get(name, 0.0)
            )
            found.append(piece)
            seen.append(present)
        return torch.cat(found, 1), torch.stack(seen, 1)

    def only(self, mask: Tensor, *names: str) -> Tensor:
        """Return a mask [..., M] in which the modalities other than those named are missing.

        Raises:
            ValueError: if a modality has none of these names.
        """
        unknown = [name for name in names if name not in self.widths]
        if unknown:
            raise ValueError(f"no modality {unknown}: there are {list(self.names)}")
        shown = torch.tensor([name in names for name in self.names], device=mask.device)
        return mask & shown

    def present(self, context: tuple[Any, ...]) -> tuple[tuple[Any, ...], Tensor | None]:
        """Split a context into the part before the mask of modalities, and the mask.

        A boolean tensor at the end of the context is the mask. Without one, the mask is None, and
        every datum has all modalities.

        Raises:
            ValueError: if the mask does not have one column for each modality.
        """
        last = context[-1] if context else None
        if not isinstance(last, Tensor) or last.dtype != torch.bool:
            return context, None
        if last.ndim < 2 or last.shape[-1] != len(self.widths):
            raise ValueError(
                f"the mask of the modalities {list(self.names)} has shape [N, "
                f"{len(self.widths)}], True where a datum has the modality; got shape "
                f"{tuple(last.shape)}"
            )
        return context[:-1], last

    def check_names(self, given: Mapping[str, Any], owner: str) -> None:
        """Check that something is given for each modality.

        Raises:
            ValueError: if a name is missing or unknown; the message names `owner`.
        """
        if set(given) != set(self.widths):
            raise ValueError(
                f"{owner} takes one for each of the modalities {list(self.names)}; got "
                f"{list(given)}"
            )


def _rows(piece: Any) -> Tensor:
    rows = torch.as_tensor(piece)
    if rows.ndim < 1 or len(rows) < 1:
        raise ValueError(f"a modality has one row or more, [N, ...]; got {tuple(rows.shape)}")
    return rows.reshape(len(rows), -1)


def _filled(name: str, rows: Tensor, width: int, value: float) -> tuple[Tensor, Tensor]:
    """Return the rows of a modality without NaN, and which data have it, [N]."""
    if rows.shape[1] != width:
        raise ValueError(
            f"the modality '{name}' has {width} columns; got {rows.shape[1]} for each datum"
        )
    unknown = rows.isnan()
    partly = (unknown.any(1) & ~unknown.all(1)).nonzero().flatten()
    if len(partly):
        raise ValueError(
            f"the modality '{name}' has NaN in some of its entries at row {int(partly[0])}: a "
            "datum has a modality as a whole or not at all. Drop the row, or set all its entries "
            "to NaN"
        )
    present = ~unknown.any(1)
    return torch.where(present.unsqueeze(1), rows, value), present
