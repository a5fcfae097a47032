"""Check data against the domain of a likelihood, with errors that name a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = [
    "check_context",
    "check_domain",
    "check_finite",
    "flat_line",
    "in_words",
    "named",
    "open_unit_interval",
    "value_in",
]


def check_finite(x: Any) -> None:
    """Check that x is a tensor [N, ...] with at least one row and finite values.

    Raises:
        ValueError: otherwise; the message names the type, the shape or the first bad row.
    """
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise ValueError(f"x must be a tensor [N, ...]; got {named(x)}")
    if x.ndim < 1 or x.numel() < 1:
        raise ValueError(f"x must have at least one row, [N, ...]; got shape {tuple(x.shape)}")
    finite = torch.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"x has NaN or infinite values in {len(bad)} of {len(x)} data, the first at row "
            f"{int(bad[0])}: drop these rows, or replace the values and mask them"
        )


def check_context(values: Iterable[Any]) -> None:
    """Check that the context has finite floats and nonnegative integers.

    Negative integers, such as the codes of missing categories, would index from the end.

    Raises:
        ValueError: otherwise; the message names the first bad row.

    Example:
        >>> import torch
        >>> from pyrovae.data import check_context
        >>> check_context([torch.tensor([0, 2, -1])])
        Traceback (most recent call last):
        ValueError: context 1 has whole numbers below 0 in 1 of 3 rows, the first -1 at row 2...
    """
    for number, value in enumerate(values, 1):
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.ndim == 0:
            continue
        codes = not (value.is_floating_point() or value.is_complex())
        bad = (value < 0) if codes else ~torch.isfinite(value)
        rows = bad.reshape(len(value), -1).any(1).nonzero().flatten()
        if not len(rows):
            continue
        row = int(rows[0])
        met = value[row][bad[row]].flatten()[0].item()
        kind, remedy = "NaN or infinite values", "drop these rows, or replace the values"
        if codes:
            kind = "whole numbers below 0"
            remedy = (
                "pandas codes a missing category as -1: drop these rows, or use codes + 1. If "
                "negative numbers are meant, convert them to floats"
            )
        raise ValueError(
            f"context {number} has {kind} in {len(rows)} of {len(value)} rows, the first {met} "
            f"at row {row}: {remedy}"
        )


def value_in(domain: constraints.Constraint) -> Any:
    """Return a value of a domain, at which densities are finite, to stand at missing entries.

    Example:
        >>> from torch.distributions import constraints
        >>> from pyrovae.data import value_in
        >>> value_in(constraints.nonnegative_integer), value_in(constraints.positive)
        (0.0, 0.5)
    """
    if isinstance(domain, constraints.stack):
        return torch.tensor([value_in(own) for own in domain.cseq])
    for value in (0.0, 0.5, 1.0):
        if bool(domain.check(torch.tensor(value))):
            return value
    return float(cast(Any, domain).lower_bound)


def named(value: Any) -> str:
    """Return the type of a value, and the code that converts it to a tensor if one is known.

    Example:
        >>> import numpy
        >>> from pyrovae.data import named
        >>> named(numpy.zeros(3))
        'ndarray: give torch.from_numpy(x).float()'
    """
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor in the layout {value.layout}: give x.to_dense()"
    home = type(value).__module__.partition(".")[0]
    lines = {
        "numpy": "torch.from_numpy(x).float()",
        "pandas": 'torch.from_numpy(x.to_numpy("float32"))',
        "polars": "torch.from_numpy(x.to_numpy()).float()",
        "scipy": "torch.from_numpy(x.toarray()).float()",
        "PIL": "torchvision.transforms.functional.to_tensor(x).flatten()",
    }
    line = lines.get(home)
    if line is None and (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        line = "torch.from_numpy(numpy.asarray(x)).float()"
    return kind if line is None else f"{kind}: give {line}"


def flat_line(image: Any) -> str:
    """Return the code that flattens images [N, ...] channel by channel, as networks expect.

    Example:
        >>> import torch
        >>> from pyrovae.data import flat_line
        >>> flat_line(torch.zeros(5, 1, 28, 28)), flat_line(torch.zeros(5, 32, 32, 3))
        ('x.flatten(1)', 'x.movedim(-1, 1).flatten(1)')
    """
    channels_last = image.ndim == 4 and 1 < image.shape[3] <= 4 < min(image.shape[1:3])
    return "x.movedim(-1, 1).flatten(1)" if channels_last else "x.flatten(1)"


def check_domain(
    x: Tensor, domain: constraints.Constraint, owner: str, *, mask: Tensor | None = None
) -> None:
    """Check the values of x against the domain of a likelihood.

    With a mask, observed entries are checked first, then the values at missing entries.

    Args:
        x: data [N, ...].
        domain: the likelihood's domain; of a table, a `constraints.stack` over columns.
        owner: the name of the likelihood, for the message.
        mask: True where an entry is observed, of the shape of x.

    Raises:
        ValueError: if a value is outside the domain; the message names the value, its row and a
            remedy.

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyrovae.data import check_domain
        >>> check_domain(torch.tensor([[0.0, 0.5]]), constraints.boolean, "Bernoulli")
        Traceback (most recent call last):
        ValueError: Bernoulli takes values that are 0 or 1; got 0.5 at row 0. Binarize ...
    """
    if not x.numel():
        return
    if mask is not None:
        check_domain(torch.where(mask, x, torch.as_tensor(value_in(domain)).to(x)), domain, owner)
    if isinstance(domain, constraints.stack):
        if x.shape[-1] != len(domain.cseq):
            raise ValueError(
                f"{owner} takes x of {len(domain.cseq)} columns; got shape {tuple(x.shape)}"
            )
        for column, own in enumerate(domain.cseq):
            place = None if mask is None else mask[..., column]
            check_domain(x[..., column], own, f"{owner} at column {column}", mask=place)
        return
    rows = (~(domain.check(x) & torch.isfinite(x))).reshape(len(x), -1)
    if rows.any():
        row = int(rows.any(1).nonzero()[0])
        value = float(x.reshape(len(x), -1)[row][rows[row]][0])
        wanted, remedy = _in_words(domain)
        where = f"row {row}"
        if mask is not None:
            where = f"row {row}, a missing entry"
            remedy = (
                "Values at missing entries are not used, but must lie in the domain: "
                f"torch.where(mask, x, {value_in(domain)})"
            )
        raise ValueError(
            f"{owner} takes values that are {wanted}; got {value:g} at {where}. {remedy}"
        )


class _OpenUnitInterval(constraints.Constraint):
    """The numbers strictly between 0 and 1."""

    def check(self, value: Tensor) -> Tensor:
        """Return which values lie strictly between 0 and 1."""
        return (value > 0) & (value < 1)


open_unit_interval: Final = _OpenUnitInterval()
"""The constraint 0 < x < 1."""


def in_words(domain: constraints.Constraint) -> str:
    """Return a description of a domain's values.

    Example:
        >>> in_words(constraints.nonnegative_integer)
        'counts 0, 1, 2, ...'
    """
    return _in_words(domain)[0]


def _in_words(domain: constraints.Constraint) -> tuple[str, str]:
    """Return a description of a domain's values, and a remedy for other values."""
    if isinstance(domain, constraints.integer_interval):
        low, high = domain.lower_bound, domain.upper_bound
        remedy = f"Convert intensities in [0, 1] with ({high} * x).round()."
        return f"whole numbers from {low} to {high}", remedy
    return _DOMAINS.get(domain, (f"in {domain}", "Choose another likelihood."))


_DOMAINS: Final[dict[Any, tuple[str, str]]] = {
    constraints.boolean: (
        "0 or 1",
        "Binarize grayscale pixels: x > 0.5, torch.bernoulli(x), or for sets of images "
        "pyrovae.data.load(name, binarization='dynamic')",
    ),
    constraints.real: ("finite real numbers", "Drop or mask the other values."),
    constraints.unit_interval: ("in [0, 1]", "Divide the pixels by 255."),
    open_unit_interval: (
        "above 0 and below 1",
        "Shrink the data, 0.5 + 0.99 * (x - 0.5), or use ContinuousBernoulli.",
    ),
    constraints.nonnegative_integer: ("counts 0, 1, 2, ...", "Round or rescale the data."),
}
