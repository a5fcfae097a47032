"""A posterior given by a normalizing flow."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.distributions.flows import AutoregressiveFlow, Kind
from pyrovae.guides.base import Guide

__all__ = ["Flow"]


class Flow(Guide):
    r"""The posterior of an inverse autoregressive flow given features h(x) (`pyrovae[flows]`).

    $$ z = m(h) + s(h) \odot T(e; h),\quad e \sim N(0, I),\qquad
       \log q(z | x) = \log N(e; 0, I) - \log \left| \det \frac{\partial z}{\partial e} \right| $$

    Sampling takes one pass of T and gives the density along the way. To score a value from
    elsewhere takes D passes.

    Args:
        net: maps x to the features h, [..., C].
        latents: the dimension D of z.
        features: the number of features C.
        kind: "spline" for a neural spline flow, or "affine" for the original inverse
            autoregressive flow.
        transforms: how many autoregressive maps T is made of.
        hidden: the width of the two hidden layers of each map's network, at least D and better
            several times D: a masked network of width 64 sees little of 50 dimensions.

    Raises:
        ValueError: for a number out of range, an unknown kind, features of another width, or if
            zuko is not installed.

    References:
        Kingma et al., 2016. Improving Variational Inference with Inverse Autoregressive Flow.
        Durkan et al., 2019. Neural Spline Flows.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import Flow
        >>> from pyrovae.nets import MLP
        >>> guide = Flow(MLP(784, 400, 64), 20, features=64)
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        net: nn.Module,
        latents: int,
        *,
        features: int,
        kind: Kind = "spline",
        transforms: int = 3,
        hidden: int = 64,
    ) -> None:
        super().__init__(net)
        if features < 1:
            raise ValueError(f"Flow needs at least one feature of x; got features={features}")
        self.features = features
        self.flow = AutoregressiveFlow(
            latents, features=features, kind=kind, transforms=transforms, hidden=hidden
        )

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return the flow given the features [..., C]."""
        if parameters.shape[-1] != self.features:
            raise ValueError(
                f"Flow expected a network with {self.features} outputs, its features; got "
                f"{parameters.shape[-1]}: change the network, or say "
                f"features={parameters.shape[-1]}"
            )
        return self.flow.fast_to_sample(parameters)
