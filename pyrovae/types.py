"""Names for what many functions take: programs, targets, data and context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["ContextValue", "Data", "HasPrograms", "Program", "Target"]

Program: TypeAlias = Callable[..., Any]
"""A Pyro program: a plain function, a module or a Pyro module."""


class HasPrograms(Protocol):
    """What has a model and a guide, such as a `VAE`."""

    @property
    def model(self) -> Program:
        """The joint of data and latents."""

    @property
    def guide(self) -> Program:
        """The posterior of the latents, given data."""


Target: TypeAlias = HasPrograms | tuple[Program, Program]
"""What is trained and measured: a `VAE`, or a pair (model, guide) of Pyro programs."""


class HasImages(Protocol):
    """A split of a data set, such as a `pyrovae.data.Split`."""

    @property
    def x(self) -> Tensor:
        """Data [N, ...]."""


Data: TypeAlias = Tensor | HasImages | tuple[Any, ...] | Dataset[Any] | Iterable[Any]
"""A data set: x, a tuple (x, *context), a split, a torch data set or an iterable of batches."""

ContextValue: TypeAlias = object
"""What the programs take beside x: a tensor with a row for each datum, or a value they share."""
