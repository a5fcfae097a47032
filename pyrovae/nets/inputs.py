"""What an encoder is shown of data that are counts, or partly missing.

Each part stands before a network and changes its first input. What it needs beside x comes last in
the context, and goes no further; parts may stand before one another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["HideMissing", "LogCounts", "check_mask", "rows_of", "split_library", "split_mask"]


class LogCounts(Part):
    r"""Show a network $\log(1 + x)$ in place of counts x, which may be thousands.

    Args:
        net: takes log(1 + x) and the context.
        library: whether the last context is the library size l of each datum, [N] or [N, 1];
            the network is given log(1 + l) in its place, one more input.

    References:
        Lopez, Regier, Cole, Jordan, Yosef, 2018. Deep generative modeling for single-cell
        transcriptomics (their encoder).

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
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
        """Take logarithms and ask the network."""
        if self.library:
            context, size = split_library(context, x, "LogCounts")
            context = (*context, size.log1p())
        out: Tensor = self.net(x.log1p(), *context)
        return out


class HideMissing(Part):
    r"""Show a network 0 wherever an entry of x is missing: the last context is the mask.

    Without it a guide may read what stands at the missing entries, and the bound is none.

    Args:
        net: takes the filled x and the context before the mask.
        append_mask: whether the mask follows x as D more inputs, so that the network can tell a
            missing entry from one that is 0.

    Raises:
        ValueError: if the last context is no boolean mask of the shape of x.

    References:
        Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete
        Data Sets.

    Example:
        >>> import torch
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
        """Fill x with 0 where it is missing and ask the network."""
        context, mask = split_mask(context, tuple(x.shape), "HideMissing")
        shown = torch.where(mask, x, 0.0)
        if self.append_mask:
            shown = torch.cat([shown, mask.to(x.dtype)], dim=-1)
        out: Tensor = self.net(shown, *context)
        return out


def split_mask(
    context: tuple[Tensor, ...], shape: tuple[int, ...], owner: str
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Take the mask of observed entries off the end of a context.

    Raises:
        ValueError: naming the owner, if the last context is no boolean tensor of the shape of x.
    """
    if not context:
        raise ValueError(
            f"{owner} takes the mask of observed entries as its last context; got no context: "
            f"give a boolean tensor of shape {shape} after x"
        )
    *rest, mask = context
    check_mask(mask, shape, owner)
    return tuple(rest), mask


def check_mask(mask: Tensor, shape: tuple[int, ...], owner: str) -> None:
    """Hold a mask of observed entries against the shape of x.

    Raises:
        ValueError: naming the owner, if the mask is not boolean or has another shape.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        met = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"{owner} takes a boolean mask, True where an entry is observed, as its last "
            f"context; got {met}: convert it with mask.bool()"
        )
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{owner} takes a mask with one entry for each of x, of shape {shape}; got shape "
            f"{tuple(mask.shape)}"
        )


def split_library(
    context: tuple[Tensor, ...], beside: Tensor, owner: str
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Take the library size off the end of a context, as a column [N, 1] of `beside`'s dtype.

    Raises:
        ValueError: naming the owner, if the last context is no tensor of shape [N] or [N, 1].
    """
    *rest, size = context or (None,)
    rows = rows_of(beside.shape[:-1], context)
    wanted = (rows, (*rows, 1))
    if not isinstance(size, Tensor) or tuple(size.shape) not in wanted:
        met = tuple(size.shape) if isinstance(size, Tensor) else type(size).__name__
        raise ValueError(
            f"{owner} takes the library size of each datum as its last context, of "
            f"shape {wanted[0]} or {wanted[1]}; got {met}: give x.sum(1) after x"
        )
    return tuple(rest), size.reshape(*rows, 1).to(beside.dtype)


def rows_of(lead: torch.Size, context: tuple[Any, ...]) -> tuple[int, ...]:
    """Return (N,), given leading axes [..., N]; where these broadcast, the last context knows N.

    They do under a class that is summed out, which comes as [C, 1, 1].
    """
    if lead[-1:] == (1,) and context and isinstance(context[-1], Tensor):
        return tuple(context[-1].shape[:1])
    return tuple(lead[-1:])
