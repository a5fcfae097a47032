r"""Hierarchical priors: each latent is sampled given the one above it.

$$ p(z_1, \ldots, z_L) = p(z_L) \prod_{l < L} p(z_l | z_{l+1}) $$
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
    r"""Sample a site "z" from a diagonal normal whose parameters are the output of a network.

    $$ p(z | h) = N(m(h), \mathrm{diag}\, s(h)^2) $$

    The input h is the context, p(z | context), or in `Hierarchical` and `Joint` the latents
    sampled before and then the context.

    Args:
        net: maps h to 2 D numbers: D means, then D unconstrained scales (see `nets.positive`).

    Raises:
        ValueError: if the width of the network's output is odd.

    References:
        Sohn, Lee, Yan, 2015. Learning Structured Output Representation using Deep Conditional
        Generative Models.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.priors import ConditionalNormal
        >>> with pyro.plate("data", 3):
        ...     ConditionalNormal(MLP(10, 2 * 20))(torch.zeros(3, 10)).shape
        torch.Size([3, 20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return p(z | h), where h is the arguments, with their leading axes as batch shape."""
        return diagonal_normal(self.net(*context), self)


class Hierarchical(Part):
    r"""Sample the sites "z_L", ..., "z_1" top-down, and return the lowest, z_1.

    $$ p(z_1, \ldots, z_L) = p(z_L) \prod_{l < L} p(z_l | z_{l+1}) $$

    The top level may be any prior. Each lower level is called with the latent above and then the
    context, as `ConditionalNormal` is. With a class at the top, it is a mixture prior.

    Args:
        *levels: priors from the top, z_L, to the bottom, z_1.

    Raises:
        ValueError: if there are no levels, or one of them is not a module.

    References:
        Rezende, Mohamed, Wierstra, 2014. Stochastic Backpropagation.
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.priors import StandardNormal
        >>> from pyrovae.priors import ConditionalNormal, Hierarchical
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
        """Sample every level and return z_1, [..., D_1]."""
        return chain(self.levels, range(len(self.levels), 0, -1), (), context)[-1]
