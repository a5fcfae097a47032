"""A prior learned as a normalizing flow."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions.flows import AutoregressiveFlow, Kind
from pyrovae.priors.base import Prior

__all__ = ["Flow"]


class Flow(Prior):
    r"""Sample a site "z" from a learned autoregressive flow (needs `pyrovae[flows]`).

    $$ \log p(z) = \log N(f(z); 0, I) + \log \left| \det \frac{\partial f}{\partial z} \right| $$

    The density takes one pass of f, and sampling D: in training, a prior is only scored.

    Args:
        latents: the dimension D of z.
        kind: "spline" for a neural spline flow, which acts on each z_i in [-5, 5], or "affine"
            for a masked autoregressive flow.
        transforms: how many autoregressive maps f is made of.
        hidden: the width of the two hidden layers of each map's network, at least D.

    Raises:
        ValueError: for a number out of range or an unknown kind, or if zuko is not installed.

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
        """Return the flow, batch shape []; the context does not matter."""
        return self.flow.fast_to_score()
