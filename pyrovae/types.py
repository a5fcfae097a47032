"""Type aliases for the arguments that many functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["ContextValue", "Data", "HasImages", "HasPrograms", "Program", "Target"]

Program: TypeAlias = Callable[..., Any]
"""A Pyro program: a plain function, an `nn.Module` or a `PyroModule`."""


class HasPrograms(Protocol):
    """An object with a model and a guide, such as a `VAE`."""

    @property
    def model(self) -> Program:
        """The program of the joint p(x, z)."""

    @property
    def guide(self) -> Program:
        """The program of the posterior q(z | x)."""


Target: TypeAlias = HasPrograms | tuple[Program, Program]
"""A `VAE`, or a pair (model, guide) of Pyro programs, to be trained or evaluated."""


class HasImages(Protocol):
    """A split of a data set, such as a `pyrovae.data.Split`."""

    @property
    def x(self) -> Tensor:
        """Data [N, ...]."""


Data: TypeAlias = (
    Tensor | HasImages | tuple[Any, ...] | Dataset[Any] | Iterable[Any] | Callable[[], Any] | Any
)
"""A data set: an array x, a tuple (x, *context), a split, a torch `Dataset`, an iterable of
batches or a function that returns one, and what wraps these (see `data.Batches`)."""

ContextValue: TypeAlias = object
"""A further argument of the programs: a tensor with one row per datum, or a shared value."""
