"""Combine several priors in one program."""

from __future__ import annotations

from torch import Tensor

from pyrovae.composition import Together

__all__ = ["Joint"]


class Joint(Together):
    r"""Sample several latents, $p(a) \, p(b | a) \, p(c | a, b) \cdots$, and concatenate them.

    Each part is a prior. It is called with the latents sampled before it and then the context; a
    prior that ignores its arguments, such as `StandardNormal`, is independent of them. The
    likelihood takes the concatenation of the latents, in the order of the parts.

    Args:
        **parts: a prior for each latent; the keyword becomes the name of its site.

    Raises:
        ValueError: if there are no parts, or one of them is not a module.

    References:
        Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative
        Models (M2: a class and a style).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import Categorical, StandardNormal
        >>> from pyrovae.priors import Joint
        >>> prior = Joint(digit=Categorical(10), style=StandardNormal(2))
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     prior().shape
        torch.Size([3, 12])
        >>> list(tape.trace.nodes)
        ['data', 'digit', 'style']
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample every latent and return their concatenation, [..., D_a + D_b + ...]."""
        return self.sample((), context)
