"""Several parts in one program: each samples its latents under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.parts import Part


class Named(Messenger):
    """Give the site "z" of a part another name, so that several parts fit into one program.

    A part with several sites keeps them apart: "z_1" under the name "h" becomes "h_z_1".

    Example:
        >>> import pyro
        >>> from pyrovae.priors import StandardNormal
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3), Named("style"):
        ...     _ = StandardNormal(2)()
        >>> list(tape.trace.nodes)
        ['data', 'style']
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        own = msg["name"]
        msg["name"] = self.name if own == "z" else f"{self.name}_{own}"


def concatenate(latents: Sequence[Tensor]) -> Tensor:
    """Concatenate latents along the last axis, leading axes broadcast: a summed-out class too.

    Example:
        >>> import torch
        >>> concatenate([torch.zeros(10, 1, 10), torch.zeros(5, 2)]).shape
        torch.Size([10, 5, 12])
    """
    lead = torch.broadcast_shapes(*(latent.shape[:-1] for latent in latents))
    return torch.cat([latent.expand(*lead, latent.shape[-1]) for latent in latents], dim=-1)


def modules(owner: Part, parts: Sequence[Any]) -> nn.ModuleList:
    """Return the parts that a part is composed of, as a list that torch knows of.

    Raises:
        ValueError: if there are none, or one is no module.
    """
    name = type(owner).__name__
    if not parts:
        raise ValueError(f"{name} is composed of at least one part; got none")
    for part in parts:
        if not isinstance(part, nn.Module):
            raise ValueError(
                f"{name} is composed of modules; got {type(part).__name__}: wrap a function of "
                "your own in a pyrovae.parts.Part"
            )
    return nn.ModuleList(parts)


class Together(Part):
    """Hold parts by the names of their sites; a subclass says what they are given."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.parts = modules(self, tuple(parts.values()))

    @final
    def sample(self, given: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        """Call each part with what is given, the latents before it and the context."""
        latents: list[Tensor] = []
        for name, part in zip(self.names, self.parts, strict=True):
            with Named(name):
                latents.append(part(*given, *latents, *context))
        return concatenate(latents)


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
