"""Preprocess the input of an encoder: counts, classes, and data with missing entries.

Each part wraps a network and transforms its first input. If it needs a tensor besides x (library
sizes, a mask), it takes the last context and does not pass it on. Parts can be nested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = [
    "EncodeColumns",
    "HideMissing",
    "LogCounts",
    "check_mask",
    "rows_of",
    "split_library",
    "split_mask",
]


class LogCounts(Part):
    r"""Apply a network to $\log(1 + x)$ instead of counts x, which may have a large range.

    Args:
        net: takes log(1 + x) and the context.
        library: whether the last context is the library size l of each datum, [N] or [N, 1].
            The network gets log(1 + l) [N, 1] in its place.

    Raises:
        ValueError: if `library` is set and the last context does not have this shape.

    References:
        Lopez, Regier, Cole, Jordan, Yosef, 2018. Deep generative modeling for single-cell
        transcriptomics (their encoder).

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.nets import LogCounts
        >>> x = torch.tensor([[0.0, 3.0, 2000.0]])
        >>> LogCounts(torch.nn.Identity())(x)
        tensor([[0.0000, 1.3863, 7.6014]])
        >>> LogCounts(MLP(3 + 1, 2), library=True)(x, x.sum(1)).shape
        torch.Size([1, 2])
    """

    def __init__(self, net: nn.Module, *, library: bool = False) -> None:
        super().__init__()
        self.net, self.library = net, library

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output at log(1 + x)."""
        if self.library:
            context, size = split_library(context, x, "LogCounts")
            context = (*context, size.log1p())
        out: Tensor = self.net(x.log1p(), *context)
        return out


class HideMissing(Part):
    r"""Apply a network to x with its missing entries replaced by 0.

    The last context is the mask, True where an entry is observed. A guide must not depend on the
    values at missing entries: the bound would not be a bound on log p(x_obs).

    Args:
        net: takes the filled x and the context before the mask.
        append_mask: whether to append the mask to x as D more inputs, so that the network can
            distinguish a missing entry from an observed 0.

    Raises:
        ValueError: if the last context is not a boolean mask of the shape of x.

    References:
        Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete
        Data Sets.

    Example:
        >>> import torch
        >>> from pyrovae.nets import HideMissing
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> mask = torch.tensor([[True, False, True]])
        >>> HideMissing(torch.nn.Identity())(x, mask)
        tensor([[1., 0., 3.]])
        >>> HideMissing(torch.nn.Identity(), append_mask=True)(x, mask)
        tensor([[1., 0., 3., 1., 0., 1.]])
    """

    def __init__(self, net: nn.Module, *, append_mask: bool = False) -> None:
        super().__init__()
        self.net, self.append_mask = net, append_mask

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output at x filled with 0."""
        context, mask = split_mask(context, tuple(x.shape), "HideMissing")
        shown = torch.where(mask, x, 0.0)
        if self.append_mask:
            shown = torch.cat([shown, mask.to(x.dtype)], dim=-1)
        out: Tensor = self.net(shown, *context)
        return out


class EncodeColumns(Part):
    r"""Apply a network to a table's columns as numbers, with the mask of observed entries.

    A real column is passed on, a count as log(1 + x), and the index of one of C classes as C
    indicators. All of them are 0 where the entry is missing, and the mask is appended. The last
    context is the mask, True where an entry is observed; values at missing entries are not read.

    Args:
        net: takes [..., W + D] numbers, W = `width(classes)`, and the context before the mask.
        classes: the number of classes of each of the D columns; 0 for a column of numbers.
        counts: the columns that hold counts.

    Raises:
        ValueError: if the last context is not a boolean mask of the shape of x, or x has another
            number of columns.

    References:
        Nazabal, Olmos, Ghahramani, Valera, 2020. Handling Incomplete Heterogeneous Data using
        VAEs.

    Example:
        >>> import torch
        >>> from pyrovae.nets import EncodeColumns
        >>> x = torch.tensor([[1.5, 2.0, 0.0]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> EncodeColumns(torch.nn.Identity(), classes=[0, 3, 2])(x, mask)
        tensor([[1.5000, 0.0000, 0.0000, 1.0000, 0.0000, 0.0000, 1.0000, 1.0000, 0.0000]])
    """

    def __init__(
        self, net: nn.Module, classes: Sequence[int], *, counts: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.net, self.classes = net, list(classes)
        numbers = [i for i, number in enumerate(classes) if number == 0]
        codes = [i for i, number in enumerate(classes) if number]
        starts = torch.tensor([0, *(classes[i] for i in codes)]).cumsum(0)
        self.indicators = int(starts[-1])
        kept = {
            "numbers": torch.tensor(numbers, dtype=torch.long),
            "codes": torch.tensor(codes, dtype=torch.long),
            "starts": starts[:-1],
            "is_count": torch.tensor([i in set(counts) for i in numbers], dtype=torch.bool),
        }
        for name, value in kept.items():
            self.register_buffer(name, value, persistent=False)

    @staticmethod
    def width(classes: Sequence[int]) -> int:
        """Return W, the number of inputs that encode columns with so many classes.

        Example:
            >>> from pyrovae.nets import EncodeColumns
            >>> EncodeColumns.width([0, 3, 2])
            6
        """
        return sum(number or 1 for number in classes)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output at the encoded columns and the mask."""
        if x.shape[-1] != len(self.classes):
            raise ValueError(
                f"EncodeColumns takes {len(self.classes)} columns; got x of shape {tuple(x.shape)}"
            )
        context, mask = split_mask(context, tuple(x.shape), "EncodeColumns")
        shown = torch.where(mask, x, 0.0)
        numbers = shown[..., self.get_buffer("numbers")]
        is_count = self.get_buffer("is_count")
        numbers = torch.where(is_count, numbers.clamp_min(0).log1p(), numbers)
        codes = self.get_buffer("codes")
        places = shown[..., codes].long() + self.get_buffer("starts")
        seen = mask[..., codes].to(x.dtype)
        indicators = x.new_zeros(*x.shape[:-1], self.indicators).scatter(-1, places, seen)
        inputs = torch.cat([numbers, indicators, mask.to(x.dtype)], dim=-1)
        out: Tensor = self.net(inputs, *context)
        return out


def split_mask(
    context: tuple[Tensor, ...], shape: tuple[int, ...], owner: str
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Split a context into the part before the mask of observed entries, and the mask.

    Raises:
        ValueError: if the last context is not a boolean tensor of the shape of x; the message
            names `owner`.
    """
    if not context:
        raise ValueError(
            f"{owner} takes the mask of observed entries as its last context; got no context: "
            f"pass a boolean tensor of shape {shape} after x"
        )
    *rest, mask = context
    check_mask(mask, shape, owner)
    return tuple(rest), mask


def check_mask(mask: Tensor, shape: tuple[int, ...], owner: str) -> None:
    """Check the dtype and shape of a mask of observed entries.

    Raises:
        ValueError: if the mask is not boolean or not of the shape of x; the message names
            `owner`.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        met = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"{owner} takes a boolean mask, True where an entry is observed, as its last "
            f"context; got {met}: convert it with mask.bool()"
        )
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{owner} takes a mask of shape {shape}, that of x; got shape {tuple(mask.shape)}"
        )


def split_library(
    context: tuple[Tensor, ...], beside: Tensor, owner: str
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Split a context into the part before the library size, and the library size [N, 1].

    The library size is converted to the dtype of `beside`, a tensor with N rows.

    Raises:
        ValueError: if the last context is not a tensor of shape [N] or [N, 1]; the message names
            `owner`.
    """
    *rest, size = context or (None,)
    rows = rows_of(beside.shape[:-1], context)
    wanted = (rows, (*rows, 1))
    if not isinstance(size, Tensor) or tuple(size.shape) not in wanted:
        met = tuple(size.shape) if isinstance(size, Tensor) else type(size).__name__
        raise ValueError(
            f"{owner} takes the library size of each datum as its last context, of "
            f"shape {wanted[0]} or {wanted[1]}; got {met}: pass x.sum(1) after x"
        )
    return tuple(rest), size.reshape(*rows, 1).to(beside.dtype)


def rows_of(lead: torch.Size, context: tuple[Any, ...]) -> tuple[int, ...]:
    """Return (N,) from leading axes [..., N], or from the last context if they broadcast.

    The leading axes of an enumerated class are [C, 1, 1], which do not contain N.
    """
    if lead[-1:] == (1,) and context and isinstance(context[-1], Tensor):
        return tuple(context[-1].shape[:1])
    return tuple(lead[-1:])
