"""Combine several guides in one program."""

from __future__ import annotations

from torch import Tensor

from pyrovae.composition import Together

__all__ = ["Joint"]


class Joint(Together):
    r"""Sample several latents, $q(a | x) \, q(b | x, a) \, q(c | x, a, b) \cdots$.

    Each part is a guide. It is called with x, the latents sampled before it and then the context.
    The order of the parts may differ from the prior's.

    Args:
        **parts: a guide for each latent, by the name of the prior's site. A site that is
            enumerated in the prior may be omitted.

    Raises:
        ValueError: if there are no parts, or one of them is not a module.

    References:
        Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative
        Models.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import Categorical, MeanFieldNormal
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import Joint
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
        """Sample every latent and return their concatenation, in the order of the parts."""
        return self.sample((x,), context)
