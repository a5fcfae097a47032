"""Record the data set of a run, and load it again."""

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
    """The name of a data set, and the settings it was loaded with.

    Attributes:
        name: the name, as of `data.load`; None if no data set is recorded.
        root: the folder of its files.
        binarization: "dynamic", "static" or "none"; None if it is not recorded.
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
        """Return the source that a configuration records; an empty one for None.

        Raises:
            ValueError: naming the entry of the record that is invalid.
        """
        found = schemas.data(recorded)
        known = {field.name: found.get(field.name) for field in dataclasses.fields(cls)}
        if known["shape"] is not None:
            known["shape"] = tuple(known["shape"])
        return cls(**known)

    @property
    def record(self) -> dict[str, Any]:
        """The source as a JSON value, which `read` reads."""
        shape = None if self.shape is None else list(self.shape)
        return {**dataclasses.asdict(self), "shape": shape}

    def given(
        self, name: str | None = None, root: Path | None = None, *, vae: VAE | None = None
    ) -> Source:
        """Return the source with another name or root, and with its binarization filled in.

        Args:
            name: a name that replaces the recorded one.
            root: a folder that replaces the recorded one.
            vae: the VAE whose likelihood decides a binarization that is not recorded.

        Raises:
            ValueError: if no data set is recorded and no name is given.
        """
        found = dataclasses.replace(
            self,
            name=name or self.name,
            root=str(root.resolve()) if root else self.root,
            binarization=self.binarization or (binarization_for(vae) if vae else None),
        )
        if found.name is None:
            raise ValueError("the run records no data set: name one with --data")
        return found

    def load(self, *, download: bool = False) -> DataSet:
        """Load the data set.

        Args:
            download: whether files may be downloaded to `root`.

        Raises:
            ValueError: if no data set is recorded, the name is unknown, or the images do not have
                the recorded shape.
        """
        if self.name is None:
            raise ValueError("the run records no data set: name one with Source(name)")
        drawn: Any = {None: "dynamic", "none": None}.get(self.binarization, self.binarization)
        data = load(self.name, self.root, binarization=drawn, download=download)
        if self.shape is not None and self.shape != tuple(data.shape):
            raise ValueError(
                f"the run was trained on images of {self.shape}; {self.name} has images of "
                f"{tuple(data.shape)}: choose data of the same shape"
            )
        return data

    def split(self, split: str = "test", *, limit: int | None = None) -> Split:
        """Load one split, or its first `limit` rows.

        Raises:
            ValueError: as `load`.
        """
        return first(getattr(self.load(), split), limit)


def first(split: Split, limit: int | None) -> Split:
    """Return the first `limit` rows of a split, or all for None."""
    if limit is None:
        return split
    return dataclasses.replace(split, x=split.x[:limit], labels=split.labels[:limit])


def binarization_for(vae: VAE) -> str:
    """Return the default binarization for a VAE, "dynamic" or "none".

    It is "dynamic" if the domain of the likelihood is {0, 1} or unknown.

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
