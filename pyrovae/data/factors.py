"""Every combination of the values of known factors of variation, by its number or at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeGuard, final

import torch
from torch import Tensor

__all__ = ["FactorGrid", "is_whole"]


@final
@dataclass(frozen=True)
class FactorGrid:
    """The combinations of the values of F factors, numbered with the last factor fastest.

    A combination is a row of F indices, each from 0 to the number of its factor's values less 1.
    `len` is the number of all combinations.

    Attributes:
        names: the names of the factors.
        sizes: the number of values of each factor.

    Raises:
        ValueError: if names repeat or are no words, a size is no whole number from 1 on, or there
            is not one size for each name.

    Example:
        >>> import torch
        >>> from pyrovae.data import FactorGrid
        >>> grid = FactorGrid(("shape", "x"), (3, 32))
        >>> len(grid), grid.at(torch.tensor([0, 33, 95])).tolist()
        (96, [[0, 0], [1, 1], [2, 31]])
        >>> grid.number(torch.tensor([[1, 1]]))
        tensor([33])
        >>> grid.sample(100, fixed={"shape": 2})[:, 0].unique()
        tensor([2])
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check names and sizes, and make tuples of them."""
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        words = all(isinstance(name, str) for name in self.names)
        fits = words and len(self.names) == len(self.sizes) == len(set(self.names)) > 0
        if not fits or not all(is_whole(size) and size >= 1 for size in self.sizes):
            raise ValueError(
                "a grid has one size of at least 1, a whole number, for each name of a factor, "
                f"all different; got the names {list(self.names)} and sizes {list(self.sizes)}"
            )

    def __len__(self) -> int:
        """Return the number of combinations."""
        return math.prod(self.sizes)

    def at(self, numbers: Tensor) -> Tensor:
        """Return combinations by their numbers [N], as int64 [N, F].

        Raises:
            ValueError: if there is no combination of a number.
        """
        _check(numbers, (len(self),), "numbers of combinations [N]", ndim=1)
        rest, found = numbers.long(), []
        for size in reversed(self.sizes):
            found.append(rest % size)
            rest = rest.div(size, rounding_mode="floor")
        return torch.stack(found[::-1], -1)

    def number(self, factors: Tensor) -> Tensor:
        """Return the numbers [N] of combinations [N, F].

        Raises:
            ValueError: as `check`.
        """
        self.check(factors)
        found = torch.zeros(len(factors), dtype=torch.long, device=factors.device)
        for column, size in zip(factors.long().unbind(1), self.sizes, strict=True):
            found = found * size + column
        return found

    def sample(
        self,
        number: int,
        *,
        fixed: Mapping[str, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw combinations, int64 [number, F], uniformly and independently.

        Args:
            number: how many to draw.
            fixed: the index of the value of factors that are held, by their names.
            generator: the source of randomness, on whose device they are drawn; None for torch's
                own on the CPU.

        Raises:
            ValueError: if a held factor or its value does not exist, or the number is negative.
        """
        fixed = dict(fixed or {})
        if not is_whole(number) or number < 0:
            raise ValueError(f"a number of combinations is 0 or more; got {number!r}")
        for name, value in fixed.items():
            if name not in self.names:
                raise ValueError(f"no factor {name!r}: there are {', '.join(self.names)}")
            size = self.sizes[self.names.index(name)]
            if not is_whole(value) or not 0 <= value < size:
                raise ValueError(f"{name} has values 0 to {size - 1}; got {value!r} to hold it at")
        device = None if generator is None else generator.device
        columns = [
            torch.full((number,), fixed[name], device=device)
            if name in fixed
            else torch.randint(size, (number,), generator=generator, device=device)
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return torch.stack(columns, 1)

    def check(self, factors: Tensor) -> None:
        """Check that rows of indices are combinations.

        Raises:
            ValueError: if they are not whole numbers [N, F], or an index is out of range.
        """
        _check(factors, self.sizes, f"indices [N, {len(self.sizes)}] of factors", names=self.names)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number: an int of Python or NumPy, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check(
    values: Tensor,
    sizes: tuple[int, ...],
    what: str,
    *,
    names: tuple[str, ...] = ("the number",),
    ndim: int = 2,
) -> None:
    whole = isinstance(values, Tensor) and not (
        values.is_floating_point() or values.is_complex() or values.dtype == torch.bool
    )
    if not whole or values.ndim != ndim or (ndim == 2 and values.shape[1] != len(sizes)):
        met = (
            f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values)
        )
        raise ValueError(f"expected {what}, whole numbers; got {met}")
    columns = values.unbind(1) if ndim == 2 else (values,)
    for name, size, column in zip(names, sizes, columns, strict=True):
        column = column.long()  # A bound may be beyond what uint8 holds.
        bad = column[(column < 0) | (column >= size)]
        if len(bad):
            raise ValueError(f"{name} goes from 0 to {size - 1}; got {int(bad[0])}")
