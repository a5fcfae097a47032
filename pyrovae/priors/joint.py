"""Several parts in one program: each samples its latents under a name of its own."""

from __future__ import annotations

from torch import Tensor

from pyrovae.composition import Together

__all__ = ["Joint"]


class Joint(Together):
    r"""Sample several latents, $p(a) \, p(b | a) \, p(c | a, b) \cdots$, and return them all.

    Each part is a prior, called with the latents before it and then the context; one that takes
    no notice of them is independent, as `StandardNormal`. The likelihood takes the latents side
    by side, in the order given.

    Args:
        **parts: a prior for each latent; the name becomes the name of its site.

    Raises:
        ValueError: if there is no part, or one is no module.

    References:
        Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative
        Models (M2: a class and a style).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import Categorical, StandardNormal
        >>> prior = Joint(digit=Categorical(10), style=StandardNormal(2))
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     prior().shape
        torch.Size([3, 12])
        >>> list(tape.trace.nodes)
        ['data', 'digit', 'style']
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample every latent and return them side by side, [..., D_a + D_b + ...]."""
        return self.sample((), context)
