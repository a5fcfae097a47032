"""Where the data of a run come from: what its folder records, so that they are found again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch.distributions import constraints

from pyrovae.data import DataSet, Split, load
from pyrovae.files import schemas
from pyrovae.vae import VAE

__all__ = ["Source", "binarization_for", "first"]


@final
@dataclass(frozen=True)
class Source:
    """A data set by its name, and how its pixels are drawn.

    Attributes:
        name: as given to `data.load`; None where none is recorded.
        root: the folder of its files.
        binarization: "dynamic", "static" or "none".
        shape: (channels, height, width) of an image.

    Example:
        >>> source = Source("digits", binarization="dynamic")
        >>> source.split("test", limit=20).x.shape
        torch.Size([20, 64])
    """

    name: str | None = None
    root: str | None = None
    binarization: str | None = None
    shape: tuple[int, int, int] | None = None

    @classmethod
    def read(cls, recorded: Any) -> Source:
        """Return the source that a file records; one that knows nothing for None.

        Raises:
            ValueError: if it records something else.
        """
        found = schemas.data(recorded)
        known = {field.name: found.get(field.name) for field in dataclasses.fields(cls)}
        if known["shape"] is not None:
            known["shape"] = tuple(known["shape"])
        return cls(**known)

    @property
    def record(self) -> dict[str, Any]:
        """What `read` reads, as JSON holds it."""
        shape = None if self.shape is None else list(self.shape)
        return {**dataclasses.asdict(self), "shape": shape}

    def given(
        self, name: str | None = None, root: Path | None = None, *, vae: VAE | None = None
    ) -> Source:
        """Return the source with another name or root, and drawn as suits a VAE if not recorded.

        Raises:
            ValueError: if no data set is recorded, and none is named.
        """
        found = dataclasses.replace(
            self,
            name=name or self.name,
            root=str(root.resolve()) if root else self.root,
            binarization=self.binarization or (binarization_for(vae) if vae else None),
        )
        if found.name is None:
            raise ValueError("the run records no data set: say which with --data")
        return found

    def load(self, *, download: bool = False) -> DataSet:
        """Load the data set.

        A folder that a run records is read and never written: nothing is downloaded there,
        unless `download` says so.

        Raises:
            ValueError: if no data set is recorded, there is none of that name, or its images
                have another shape than the recorded one.
        """
        if self.name is None:
            raise ValueError("the run records no data set: give its name")
        drawn: Any = {None: "dynamic", "none": None}.get(self.binarization, self.binarization)
        data = load(self.name, self.root, binarization=drawn, download=download)
        if self.shape is not None and self.shape != tuple(data.shape):
            raise ValueError(
                f"the run was trained on images of {self.shape}; {self.name} has images of "
                f"{tuple(data.shape)}: a VAE measures data of the shape that it was made for"
            )
        return data

    def split(self, split: str = "test", *, limit: int | None = None) -> Split:
        """Load one split, or the first rows of it.

        Raises:
            ValueError: as `load`.
        """
        return first(getattr(self.load(), split), limit)


def first(split: Split, limit: int | None) -> Split:
    """Return the first rows of a split, or all of them."""
    if limit is None:
        return split
    return dataclasses.replace(split, x=split.x[:limit], labels=split.labels[:limit])


def binarization_for(vae: VAE) -> str:
    """Return how gray pixels are drawn for a likelihood: as 0 or 1 if its data are binary.

    Example:
        >>> import pyrovae as pv
        >>> net = pv.nets.MLP(2, 64)
        >>> guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4))
        >>> prior = pv.priors.StandardNormal(2)
        >>> pv.runs.sources.binarization_for(pv.VAE(prior, pv.likelihoods.Normal(net), guide))
        'none'
    """
    domain = getattr(vae.likelihood, "domain", None)
    return "dynamic" if domain in (None, constraints.boolean) else "none"
