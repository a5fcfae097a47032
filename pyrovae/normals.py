"""A normal distribution from what a network puts out: the form that priors and guides share."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.nets import positive


def diagonal_normal(parameters: Tensor, owner: nn.Module) -> dist.Distribution:
    """Return the normal of D means and D unconstrained scales, [..., 2 D], for a part.

    Raises:
        ValueError: naming the part, if the width is odd or 0.
    """
    width = parameters.shape[-1]
    if width % 2 or width == 0:
        raise ValueError(
            f"{type(owner).__name__} expected a network with an even number of outputs, 2 D for "
            f"D latent dimensions; got {width}"
        )
    loc, scale = parameters.chunk(2, dim=-1)
    return dist.Normal(loc, positive(scale)).to_event(1)
