"""One distribution over the columns of a table, from a distribution for each group of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.weights.observed import observed

__all__ = ["JointColumns"]


@final
class JointColumns(dist.TorchDistribution):
    r"""Combine independent distributions of disjoint columns into one distribution over [D].

    $$ \log p(x) = \sum_g \log p_g(x_{C_g}) $$

    Args:
        parts: a distribution for each group, with event shape [D_g].
        groups: the column indices of each group, [D_g].
        place: the position of each column in the concatenation of the groups, [D].

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.distributions import JointColumns
        >>> real = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> counts = dist.Poisson(torch.ones(1)).to_event(1)
        >>> groups = [torch.tensor([1]), torch.tensor([0])]
        >>> JointColumns([real, counts], groups, torch.tensor([1, 0])).mean
        tensor([1., 0.])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        parts: Sequence[Any],
        groups: Sequence[Tensor],
        place: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        self.parts = [part if part.batch_shape == batch else part.expand(batch) for part in parts]
        self.groups, self.place = groups, place
        super().__init__(batch, place.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> JointColumns:
        """Return the distribution with a larger batch shape."""
        return self.each(lambda part, _: part.expand(torch.Size(batch_shape)))

    def each(self, change: Callable[[Any, Tensor], Any]) -> JointColumns:
        """Apply a function to each part and its columns, and return the new joint."""
        parts = [change(*pair) for pair in zip(self.parts, self.groups, strict=True)]
        return JointColumns(parts, self.groups, self.place, validate_args=self._validate_args)

    def observed(self) -> Tensor | None:
        """Return a mask of the entries that are scored, [..., D]; None if all are."""
        seen = [observed(part) for part in self.parts]
        if all(entries is None for entries in seen):
            return None
        whole = [
            torch.ones(part.shape(), dtype=torch.bool, device=self.place.device)
            if entries is None
            else entries
            for part, entries in zip(self.parts, seen, strict=True)
        ]
        return self._joined(whole)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum of the groups' log-probabilities, in nats.

        Raises:
            ValueError: if the value has a different number of columns.
        """
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"the table has {len(self.place)} columns; got a value of shape "
                f"{tuple(value.shape)}"
            )
        scores = [
            part.log_prob(value.index_select(-1, columns))
            for part, columns in zip(self.parts, self.groups, strict=True)
        ]
        return torch.stack(scores).sum(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample each group and reorder the columns."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            return self._joined([part.sample(shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """The mean of each column, [..., D]; of a class, the mean of its index."""
        return self._joined([part.mean for part in self.parts])

    def _joined(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, dim=-1).index_select(-1, self.place)
