"""Several guides in one: each samples its latents under a name of its own."""

from __future__ import annotations

from torch import Tensor

from pyrovae.composition import Together

__all__ = ["Joint"]


class Joint(Together):
    r"""Sample several latents, $q(a | x) \, q(b | x, a) \, q(c | x, a, b) \cdots$.

    Each part is a guide, called with x, the latents before it and then the context. The order is
    the guide's own and need not be that of the prior.

    Args:
        **parts: a guide for each latent; the name is that of the prior's site. A site that is
            summed out in the prior may be left out.

    Raises:
        ValueError: if there is no part, or one is no module.

    References:
        Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative
        Models.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import Categorical, MeanFieldNormal
        >>> from pyrovae.nets import MLP
        >>> guide = Joint(
        ...     digit=Categorical(MLP(64, 10)), style=MeanFieldNormal(MLP(64 + 10, 2 * 2))
        ... )
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 64)).shape
        torch.Size([3, 12])
        >>> list(tape.trace.nodes)
        ['data', 'digit', 'style']
    """

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample every latent and return them side by side, in the order of the guide."""
        return self.sample((x,), context)
