"""What programs take beside x: tensors with a row for each datum, and what all data share.

Where data are cut, a tensor with as many rows as x is cut along. A tensor that all data share may
have as many rows as a first cut leaves; bound to the programs before that, it stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrovae.weights.log_weights import Program


@dataclass(frozen=True)
class Context:
    """The arguments of programs beside x, and which of them have a row for each datum.

    Attributes:
        values: the arguments.
        per_datum: for each, whether it is a tensor with as many rows as x.

    Example:
        >>> import torch
        >>> label, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0])
        >>> context = Context.of(torch.zeros(3, 1), scale, label)
        >>> model = context.bound(lambda x, scale, label: scale * label)
        >>> model(torch.zeros(2, 1), *(value[1:] for value in context.own))
        tensor([20., 60.])
    """

    values: tuple[Any, ...]
    per_datum: tuple[bool, ...]

    @classmethod
    def of(cls, x: Tensor, *values: Any) -> Context:
        """Tell by the rows of all data, [N, ...], what is each datum's own."""
        per_datum = (isinstance(v, Tensor) and v.shape[:1] == x.shape[:1] for v in values)
        return cls(values, tuple(per_datum))

    @property
    def own(self) -> tuple[Tensor, ...]:
        """What has a row for each datum."""
        both = zip(self.values, self.per_datum, strict=True)
        return tuple(value for value, mine in both if mine)

    def whole(self, own: Iterable[Tensor]) -> list[Any]:
        """Return the arguments for some of the data, given what is their own."""
        rest = iter(own)
        both = zip(self.values, self.per_datum, strict=True)
        return [next(rest) if mine else value for value, mine in both]

    def bound(self, program: Program) -> Program:
        """Return the program as one of x and what is each datum's own."""
        if all(self.per_datum):
            return program
        return lambda x, *own, **named: program(x, *self.whole(own), **named)
