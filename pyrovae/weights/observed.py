"""Find the entries of the data that a model observes, given its masks.

A mask can apply to entries, `dist.Normal(...).mask(m).to_event(1)`, to data,
`dist.Normal(...).to_event(1).mask(m)`, or to a site, `pyro.poutine.mask(mask=m)` and
`obs_mask=m`. `likelihoods.Masked` and `likelihoods.Columns` have masks too. All of these appear in
the site's distribution or in its mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

__all__ = ["entries", "observed", "observed_at"]


def observed(fn: Any) -> Tensor | None:
    """Return which entries a distribution scores, of its batch and event shape; None for all.

    Example:
        >>> import pyro.distributions as dist
        >>> mask = torch.tensor([True, False])
        >>> observed(dist.Normal(torch.zeros(2), 1.0).mask(mask).to_event(1))
        tensor([ True, False])
    """
    own = getattr(fn, "observed", None)
    if own is not None:
        seen: Tensor | None = own()
        return seen
    if not isinstance(fn, MaskedDistribution | Independent | ExpandedDistribution):
        return None
    seen = observed(fn.base_dist)
    if isinstance(fn, MaskedDistribution):
        return _together(seen, fn._mask, fn)
    return seen if seen is None else seen.expand(fn.batch_shape + fn.event_shape)


def observed_at(site: Any) -> Tensor | None:
    """Return which entries of a site are scored; None for all."""
    return _together(observed(site["fn"]), site["mask"], site["fn"])


def entries(sites: Iterable[Any], data: int) -> Tensor:
    """Return the number of entries of each datum that observed sites score, [N], as floats."""
    found: Any = torch.zeros(())
    for site in sites:
        found = found + site["fn"].event_shape.numel()
        seen = observed_at(site)
        if seen is not None:
            event = seen.ndim - site["fn"].event_dim
            missing = (~seen).reshape(*seen.shape[:event], -1).sum(-1).reshape(-1, data)[0]
            found = found - missing
    return torch.as_tensor(found, dtype=torch.float64).expand(data)


def _together(seen: Tensor | None, mask: Any, fn: Any) -> Tensor | None:
    """Combine a mask over entries with a mask over the batch."""
    if mask is None or mask is True:
        return None if seen is None else seen.expand(fn.shape())
    over_entries = torch.as_tensor(mask)
    over_entries = over_entries.bool().reshape(*over_entries.shape, *[1] * fn.event_dim)
    own = over_entries.expand(fn.shape())
    return own if seen is None else seen & own
