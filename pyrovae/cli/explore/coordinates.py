"""One vector for all latents of a guide: the values of its sites, flattened, side by side.

The page moves in these coordinates; the programs take one value [S, 1, ...] for each site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.measure.latents.sites import Values, flat, latent_values

__all__ = ["Coordinates"]


@dataclass(frozen=True)
class Place:
    """One site of the coordinates.

    Attributes:
        name: the site's name.
        shape: the shape of one value.
        dtype: the dtype of its values.
        device: their device.
        discrete: whether its values are classes, bits or counts.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    discrete: bool

    @property
    def size(self) -> int:
        """The number of entries of one value."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Coordinates:
    """The latent sites of a guide, as D coordinates.

    Attributes:
        places: the sites in the order in which the guide samples them.

    Example:
        >>> from pyrovae.measure.latents.sites import drawn
        >>> coordinates = Coordinates.of(drawn(vae.guide, 1, x))
        >>> coordinates.names
        ('z[0]', 'z[1]')
        >>> coordinates.values(torch.zeros(3, 2))["z"].shape
        torch.Size([3, 1, 2])
    """

    places: tuple[Place, ...]

    @classmethod
    def of(cls, trace: Any) -> Coordinates:
        """Return the coordinates of the latent sites of a guide's trace under a plate of K."""
        return cls(
            tuple(
                Place(
                    name,
                    tuple(value.shape[2:]),
                    value.dtype,
                    value.device,
                    # The vectors of codes are discrete too, but no whole numbers.
                    bool(trace.nodes[name]["fn"].support.is_discrete)
                    and bool((value.double().round() == value).all()),
                )
                for name, value in latent_values(trace).items()
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the D coordinates, such as "z[0]"."""
        return tuple(f"{place.name}[{j}]" for place in self.places for j in range(place.size))

    @property
    def discrete(self) -> tuple[bool, ...]:
        """Whether each coordinate has whole values only."""
        return tuple(place.discrete for place in self.places for _ in range(place.size))

    def vectors(self, values: Values) -> Tensor:
        """Return the values of sites, [K, N, ...] each, as coordinates [K N, D]."""
        parts = [flat(values[place.name]).flatten(0, 1) for place in self.places]
        return torch.cat([part.double() for part in parts], -1)

    def values(self, z: Tensor) -> Values:
        """Return coordinates [S, D] as values of the sites, [S, 1, ...] each.

        Raises:
            ValueError: if there are not D coordinates, or one is not finite.
        """
        sizes = [place.size for place in self.places]
        if z.ndim != 2 or z.shape[1] != sum(sizes) or not z.isfinite().all():
            raise ValueError(
                f"a point has {sum(sizes)} finite coordinates, {', '.join(self.names[:4])} and so "
                f"on; got shape {tuple(z.shape)}: give one number for each"
            )
        parts = z.split(sizes, dim=1)
        return {
            place.name: (part.round() if place.discrete else part)
            .to(place.device, place.dtype)
            .reshape(len(z), 1, *place.shape)
            for place, part in zip(self.places, parts, strict=True)
        }
