"""Parts made of parts: each samples its latents under a name of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def chain(
    levels: Iterable[nn.Module],
    numbers: range,
    given: tuple[Tensor, ...],
    context: tuple[Tensor, ...],
) -> list[Tensor]:
    """Sample sites "z_i" for the numbers i, each level given the latent before it."""
    latents: list[Tensor] = []
    for number, level in zip(numbers, levels, strict=True):
        with Named(f"z_{number}"):
            given = (level(*given, *context),)
        latents += given
    return latents
