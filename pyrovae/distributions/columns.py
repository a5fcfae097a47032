"""A distribution over the columns of a table, each scored by its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.weights.observed import observed


@final
class JointColumns(dist.TorchDistribution):
    """Independent distributions over disjoint columns as one over [D].

    Args:
        parts: of event shape [D_g] each.
        groups: the columns of each part, whole numbers [D_g].
        place: where each column lies among the groups' columns in their order, [D].
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
        """Return the joint of what `change` makes of each part and its columns."""
        parts = [change(*pair) for pair in zip(self.parts, self.groups, strict=True)]
        return JointColumns(parts, self.groups, self.place, validate_args=self._validate_args)

    def observed(self) -> Tensor | None:
        """Tell which entries are scored, [..., D]; None for all."""
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
        """Return the sum over groups of their log-probabilities.

        Raises:
            ValueError: if the value has another number of columns.
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
        """Draw each group and put the columns in their places."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            return self._joined([part.sample(shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """The means; of a column of classes, the mean of their numbers."""
        return self._joined([part.mean for part in self.parts])

    def _joined(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, dim=-1).index_select(-1, self.place)
