"""A distribution of data of which some are missing, whatever value stands in their place."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Present"]


@final
class Present(dist.TorchDistribution):
    r"""Score the data that are present, and give the others log-probability 0.

    $$ \log p(x_n) = m_n \log p_n(x_n) $$

    `.mask(m)` scores the others too, and then leaves the result out, so that NaN among them makes
    the gradient NaN. Here a value of the support is scored in their place. Samples are complete.

    Args:
        base_dist: the distribution p of complete data, with batch shape [..., N].
        mask: booleans that broadcast with the batch shape, True where the datum is present.
        value: a value of the support, which broadcasts with the event shape.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.distributions import Present
        >>> normal = dist.Normal(torch.zeros(2, 1), 1.0).to_event(1)
        >>> some = Present(normal, torch.tensor([True, False]), torch.zeros(1))
        >>> some.log_prob(torch.tensor([[0.0], [float("nan")]]))
        tensor([-0.9189,  0.0000])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base_dist: Any, mask: Tensor, value: Tensor) -> None:
        shape = torch.broadcast_shapes(base_dist.batch_shape, mask.shape)
        self.base_dist = base_dist if base_dist.batch_shape == shape else base_dist.expand(shape)
        self.present, self.value = mask.expand(shape), value
        super().__init__(shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The support of complete data."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """The mean of complete data."""
        mean: Tensor = self.base_dist.mean
        return mean

    def expand(self, batch_shape: Any, _instance: Any = None) -> Present:
        """Return the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return Present(self.base_dist.expand(shape), self.present.expand(shape), self.value)

    def observed(self) -> Tensor:
        """Return a mask of the entries that are scored, of the batch and event shape."""
        return self._over_entries(self.present).expand(self.shape())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each datum, in nats; 0 where it is missing."""
        value = torch.where(self._over_entries(self.present), value, self.value.to(value))
        return torch.where(self.present, self.base_dist.log_prob(value), 0.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample complete data."""
        drawn: Tensor = self.base_dist.sample(torch.Size(sample_shape))
        return drawn

    def _over_entries(self, mask: Tensor) -> Tensor:
        return mask.reshape(*mask.shape, *[1] * self.event_dim)
