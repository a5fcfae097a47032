r"""A ladder of latents: each is drawn given the one above it.

p(z_1, ..., z_L) = p(z_L) \prod_{l < L} p(z_l | z_{l+1})
"""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.composition import chain, modules
from pyrovae.nets.heads import diagonal_normal
from pyrovae.parts import Part
from pyrovae.priors.base import Prior

__all__ = ["ConditionalNormal", "Hierarchical"]


class ConditionalNormal(Prior):
    r"""Sample a site "z" from a normal that a network reads off what it is called with, h.

    $$ p(z | h) = N(m(h), \mathrm{diag}\, s(h)^2) $$

    Alone it is called with the context: p(z | context). A level of `Hierarchical` or a part of
    `Joint` is called with other latents first.

    Args:
        net: maps what it is called with to 2 D numbers: D means, then D unconstrained scales
            (see `nets.positive`).

    Raises:
        ValueError: if the network's output is odd in width.

    References:
        Sohn, Lee, Yan, 2015. Learning Structured Output Representation using Deep Conditional
        Generative Models.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> with pyro.plate("data", 3):
        ...     ConditionalNormal(MLP(10, 2 * 20))(torch.zeros(3, 10)).shape
        torch.Size([3, 20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return p(z | h) with the leading axes of h, other latents and the context, as batch."""
        return diagonal_normal(self.net(*context), self)


class Hierarchical(Part):
    r"""Sample sites "z_L", ..., "z_1" from the top down and return the lowest, z_1.

    $$ p(z_1, \ldots, z_L) = p(z_L) \prod_{l < L} p(z_l | z_{l+1}) $$

    Any prior stands on top; below it, any that takes the latent above and then the context, as
    `ConditionalNormal` does. With a class on top it is a prior of clusters.

    Args:
        *levels: priors from the top, z_L, to the lowest, z_1.

    Raises:
        ValueError: if there is no level, or one is no module.

    References:
        Rezende, Mohamed, Wierstra, 2014. Stochastic Backpropagation.
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.priors import StandardNormal
        >>> prior = Hierarchical(StandardNormal(2), ConditionalNormal(MLP(2, 50, 2 * 20)))
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     prior().shape
        torch.Size([3, 20])
        >>> list(tape.trace.nodes)
        ['data', 'z_2', 'z_1']
    """

    def __init__(self, *levels: nn.Module) -> None:
        super().__init__()
        self.levels = modules(self, levels)

    def forward(self, *context: Tensor) -> Tensor:
        """Sample from the top down and return z_1 of shape [..., D_1]."""
        return chain(self.levels, range(len(self.levels), 0, -1), (), context)[-1]
