"""A normalizing-flow posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.distributions.flows import AutoregressiveFlow, Kind
from pyrovae.guides.base import Guide

__all__ = ["Flow"]


class Flow(Guide):
    r"""An inverse autoregressive flow conditional on features h(x) (needs `pyrovae[flows]`).

    $$ z = m(h) + s(h) \odot T(e; h),\quad e \sim N(0, I),\qquad
       \log q(z | x) = \log N(e; 0, I) - \log \left| \det \frac{\partial z}{\partial e} \right| $$

    Sampling takes one pass of T, which also gives the density of the sample. Scoring any other
    value takes D passes.

    Args:
        net: maps x to the features h, [..., C].
        latents: the dimension D of z.
        features: the number C of features.
        kind: "spline" for a neural spline flow, or "affine" for the original inverse
            autoregressive flow.
        transforms: the number of autoregressive transforms in T.
        hidden: the width of the two hidden layers of each transform's network, at least D and
            preferably several times D, because the masks divide the units among the dimensions.

    Raises:
        ValueError: if an argument is out of range, the network's output is not C wide, or zuko
            is not installed.

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

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the flow given the features [..., C]."""
        if parameters.shape[-1] != self.features:
            raise ValueError(
                f"Flow expected a network with {self.features} outputs, its features; got "
                f"{parameters.shape[-1]}: change the network, or give "
                f"features={parameters.shape[-1]}"
            )
        return self.flow.fast_to_sample(parameters)
