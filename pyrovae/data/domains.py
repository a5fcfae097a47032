"""Which values a likelihood can score, and the sentence for data that hold others."""

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
    "named",
    "open_unit_interval",
    "value_in",
]


def check_finite(x: Any) -> None:
    """Hold x against what every program wants: a tensor with rows, all of them finite.

    Raises:
        ValueError: naming the shape, or the first row that is not finite.
    """
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise ValueError(f"x is a tensor [N, ...]; got {named(x)}")
    if x.ndim < 1 or x.numel() < 1:
        raise ValueError(f"x is a tensor with at least one row, [N, ...]; got {tuple(x.shape)}")
    finite = torch.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"x has NaN or infinite values in {len(bad)} of {len(x)} data, the first at row "
            f"{int(bad[0])}: drop these rows, or fill the values in and mask them"
        )


def check_context(values: Iterable[Any]) -> None:
    """Hold the tensors beside x against what programs can make something of.

    Raises:
        ValueError: for numbers that are not finite, and for codes below 0, which would index from
            the end; naming the first row.

    Example:
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
        kind, remedy = "NaN or infinite values", "drop these rows, or fill the values in"
        if codes:
            kind = "whole numbers below 0"
            remedy = (
                "pandas codes a missing category as -1: drop these rows, or give it a code of its "
                "own, codes + 1. Numbers that may be negative are given as floats"
            )
        raise ValueError(
            f"context {number} has {kind} in {len(rows)} of {len(value)} rows, the first {met} "
            f"at row {row}: {remedy}"
        )


def value_in(domain: constraints.Constraint) -> Any:
    """Return a value that a likelihood of this domain can score, far from where it is infinite.

    Example:
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
    """Return what a value is, and the line that makes a tensor of it, if one is known.

    Example:
        >>> import numpy
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
    """Return the line that flattens images [N, ...] as networks read them, channel by channel.

    Example:
        >>> flat_line(torch.zeros(5, 1, 28, 28)), flat_line(torch.zeros(5, 32, 32, 3))
        ('x.flatten(1)', 'x.movedim(-1, 1).flatten(1)')
    """
    channels_last = image.ndim == 4 and 1 < image.shape[3] <= 4 < min(image.shape[1:3])
    return "x.movedim(-1, 1).flatten(1)" if channels_last else "x.flatten(1)"


def check_domain(
    x: Tensor, domain: constraints.Constraint, owner: str, *, mask: Tensor | None = None
) -> None:
    """Hold the values of x against the domain of a likelihood, those that a mask leaves out last.

    Raises:
        ValueError: naming a value outside the domain and a way to mend it.

    Example:
        >>> check_domain(torch.tensor([[0.0, 0.5]]), constraints.boolean, "Bernoulli")
        Traceback (most recent call last):
        ValueError: Bernoulli takes values that are 0 or 1; got 0.5 at row 0. Gray ...
    """
    if mask is not None:
        check_domain(torch.where(mask, x, torch.as_tensor(value_in(domain)).to(x)), domain, owner)
    if isinstance(domain, constraints.stack):
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
                "What stands at missing entries is not read, but is of the same kind: "
                f"torch.where(mask, x, {value_in(domain)})"
            )
        raise ValueError(
            f"{owner} takes values that are {wanted}; got {value:g} at {where}. {remedy}"
        )


class _OpenUnitInterval(constraints.Constraint):
    """Constrain to numbers above 0 and below 1."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which values lie strictly between 0 and 1."""
        return (value > 0) & (value < 1)


open_unit_interval: Final = _OpenUnitInterval()


def _in_words(domain: constraints.Constraint) -> tuple[str, str]:
    """Return what values a domain holds, and a way to mend others."""
    if isinstance(domain, constraints.integer_interval):
        low, high = domain.lower_bound, domain.upper_bound
        remedy = f"Intensities in [0, 1] become such levels by ({high} * x).round()."
        return f"whole numbers from {low} to {high}", remedy
    return _DOMAINS.get(domain, (f"in {domain}", "Choose another likelihood."))


_DOMAINS: Final[dict[Any, tuple[str, str]]] = {
    constraints.boolean: (
        "0 or 1",
        "Gray pixels are binarized first: pyrovae.data.load(binarization='dynamic') or "
        "torch.bernoulli(x)",
    ),
    constraints.real: ("finite real numbers", "Drop or mask the values that are not."),
    constraints.unit_interval: ("in [0, 1]", "Divide the pixels by 255."),
    open_unit_interval: (
        "above 0 and below 1",
        "Shrink the data, 0.5 + 0.99 * (x - 0.5), or take ContinuousBernoulli, which allows both.",
    ),
    constraints.nonnegative_integer: ("counts 0, 1, 2, ...", "Round or rescale the data."),
}
