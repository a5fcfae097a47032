"""A normalizing-flow prior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions.flows import AutoregressiveFlow, Kind
from pyrovae.priors.base import Prior

__all__ = ["Flow"]


class Flow(Prior):
    r"""Sample a site "z" from a learned autoregressive flow (needs `pyrovae[flows]`).

    $$ \log p(z) = \log N(f(z); 0, I) + \log \left| \det \frac{\partial f}{\partial z} \right| $$

    Scoring takes one pass of f, sampling D passes. Training only scores the prior.

    Args:
        latents: the dimension D of z.
        kind: "spline" for a neural spline flow, which is the identity for z_i outside [-5, 5],
            or "affine" for a masked autoregressive flow.
        transforms: the number of autoregressive transforms in f.
        hidden: the width of the two hidden layers of each transform's network, at least D.

    Raises:
        ValueError: if an argument is out of range, or zuko is not installed.

    References:
        Durkan et al., 2019. Neural Spline Flows.
        Papamakarios, Pavlakou, Murray, 2017. Masked Autoregressive Flow for Density Estimation.
        Chen et al., 2017. Variational Lossy Autoencoder (flow priors).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import Flow
        >>> with pyro.plate("data", 3):
        ...     Flow(2, transforms=2, hidden=16)().shape
        torch.Size([3, 2])
    """

    def __init__(
        self, latents: int, *, kind: Kind = "spline", transforms: int = 3, hidden: int = 64
    ) -> None:
        super().__init__()
        self.flow = AutoregressiveFlow(latents, kind=kind, transforms=transforms, hidden=hidden)

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the flow, with batch shape []; the context is ignored."""
        return self.flow.fast_to_score()
