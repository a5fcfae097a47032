"""Compose priors and guides from parts, each under its own site names.

Every prior and guide samples a site "z". `Named` renames it, so that several parts run in one
program: `Together` calls them one after the other, `chain` passes each latent to the next level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.parts import Part

__all__ = ["Named", "Together", "chain", "concatenate", "modules"]


class Named(Messenger):
    """Rename the site "z" of a part, so that several parts can run in one program.

    Any other site gets the name as a prefix: "z_1" under the name "h" becomes "h_z_1".

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
    """Concatenate latents along the last axis, and broadcast their leading axes.

    The leading axes of an enumerated class are those of the enumeration, so they must broadcast.

    Example:
        >>> import torch
        >>> concatenate([torch.zeros(10, 1, 10), torch.zeros(5, 2)]).shape
        torch.Size([10, 5, 12])
    """
    lead = torch.broadcast_shapes(*(latent.shape[:-1] for latent in latents))
    return torch.cat([latent.expand(*lead, latent.shape[-1]) for latent in latents], dim=-1)


def modules(owner: Part, parts: Sequence[Any]) -> nn.ModuleList:
    """Return the parts of a composed part as a `ModuleList`, which registers them.

    Raises:
        ValueError: if there are no parts, or one of them is not a module.
    """
    name = type(owner).__name__
    if not parts:
        raise ValueError(f"{name} needs at least one part; got none")
    for part in parts:
        if not isinstance(part, nn.Module):
            raise ValueError(
                f"{name} takes torch modules as parts; got {type(part).__name__}. Wrap a function "
                "in a pyrovae.parts.Part"
            )
    return nn.ModuleList(parts)


class Together(Part):
    """Hold parts by the names of their sites. A subclass chooses what they are called with."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.parts = modules(self, tuple(parts.values()))

    @final
    def sample(self, given: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        """Call each part with `given`, the latents sampled so far and the context."""
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
    """Sample the sites "z_i" for i in `numbers`, each level given the latent before it."""
    latents: list[Tensor] = []
    for number, level in zip(numbers, levels, strict=True):
        with Named(f"z_{number}"):
            given = (level(*given, *context),)
        latents += given
    return latents
