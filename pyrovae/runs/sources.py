"""Record the data set of a run, load it again, and tell data that the run was trained on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import torch
from torch.distributions import constraints

from pyrovae.data import DataSet, Split, load
from pyrovae.data.content import Content
from pyrovae.data.readers import absolute, is_name
from pyrovae.data.reading import NoColumn, Reading
from pyrovae.files import schemas
from pyrovae.vae import VAE

__all__ = ["Source", "binarization_for", "first"]

WHOLE = {"train": (1, 0, 0), "validation": (0, 1, 0), "test": (0, 0, 1)}
"""The fractions that put all rows into one split."""

SHARED = (
    *("covariates", "labels", "shape", "channels", "size", "levels", "key", "table", "vocabulary"),
)
"""The options that another file is read with, as it must have the same dimensions."""


@final
@dataclass(frozen=True)
class Source:
    """The name or path of a data set, and the settings it was loaded with.

    Attributes:
        name: the name or path, as of `data.load`; None if no data set is recorded.
        root: the folder of its files.
        binarization: "dynamic", "static" or "none"; None if it is not recorded.
        shape: (channels, height, width) of an image, (D,), or (T, D) of sequences.
        reading: the options of `data.load`.
        content: a record of the rows, which tells training data; None if there is none.
        columns: the names of the dimensions of x, in their order; () if they have none.

    Example:
        >>> from pyrovae.runs.sources import Source
        >>> source = Source("digits", binarization="dynamic")
        >>> source.split("test", limit=20).x.shape
        torch.Size([20, 64])
    """

    name: str | None = None
    root: str | None = None
    binarization: str | None = None
    shape: tuple[int, ...] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    content: Content | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def read(cls, recorded: Any) -> Source:
        """Return the source that a configuration records; an empty one for None.

        Raises:
            ValueError: naming the entry of the record that is invalid.
        """
        found = schemas.data(recorded)
        known: dict[str, Any] = {
            each.name: found.get(each.name) for each in dataclasses.fields(cls)
        }
        known["reading"] = Reading.of(known["reading"] or {}).record
        if known["shape"] is not None:
            known["shape"] = tuple(known["shape"])
        known["columns"] = tuple(known["columns"] or ())
        if known["content"] is not None:
            known["content"] = Content(**known["content"])
        return cls(**known)

    @property
    def record(self) -> dict[str, Any]:
        """The source as a JSON value, which `read` reads."""
        shape = None if self.shape is None else list(self.shape)
        plain = {"reading": dict(self.reading) or None, "columns": list(self.columns) or None}
        return {**dataclasses.asdict(self), "shape": shape, **plain}

    def given(
        self,
        name: str | None = None,
        root: Path | None = None,
        *,
        vae: VAE | None = None,
        split: str = "test",
    ) -> Source:
        """Return the source with another name or root, and with its binarization filled in.

        Other data that do not give their splits are one split as a whole.

        Args:
            name: a name or path that replaces the recorded one.
            root: a folder that replaces the recorded one.
            vae: the VAE whose likelihood decides a binarization that is not recorded.
            split: the split that all rows of other data are in.

        Raises:
            ValueError: if no data set is recorded and no name is given, or there is no such data
                set.
        """
        name = None if name is None else absolute(name)
        reading = self.reading
        if name is not None and name != self.name:
            of_file = [key for key in SHARED if key in reading and not is_name(name)]
            reading = {"fractions": WHOLE[split], **{key: reading[key] for key in of_file}}
        found = dataclasses.replace(
            self,
            name=name or self.name,
            root=str(root.resolve()) if root else self.root,
            binarization=self.binarization or (binarization_for(vae) if vae else None),
            reading=reading,
        )
        if found.name is None:
            raise ValueError("the run records no data set: name one with --data")
        return found

    def read_data(self, *, download: bool = False) -> DataSet:
        """Load the data set, with intensities that are not binarized.

        Columns are in the recorded order, whatever that of the file. Data that a run is measured
        on may lack the labels that it was trained beside.

        Raises:
            ValueError: as `load`.
        """
        if self.name is None:
            raise ValueError("the run records no data set: name one with Source(name)")
        here: dict[str, Any] = {"binarization": None, "download": download}
        if self.shape is not None and "table" not in self.reading:
            # A schema of their own would standardize them by their own statistics.
            here["table"] = False
        try:
            data = load(self.name, self.root, **here, **self.reading)
        except NoColumn as lacking:
            labels = self.reading.get("labels")
            if self.shape is None or lacking.column != labels:
                raise
            rest = {key: value for key, value in self.reading.items() if key != "labels"}
            data = load(self.name, self.root, **here, **rest)
        data = _in_order(data, self.columns)
        if self.shape is not None and not _same_kind(self.shape, tuple(data.shape)):
            what = "images" if len(self.shape) == 3 else "data"
            raise ValueError(
                f"the run was trained on {what} of {self.shape}; {self.name} has {what} of "
                f"{tuple(data.shape)}: choose data of the same shape"
            )
        return data

    def binarized(self, data: DataSet) -> DataSet:
        """Return data of `read_data` as they are trained on and evaluated."""
        drawn: Any = {None: "usual", "none": None}.get(self.binarization, self.binarization)
        return data.binarized(drawn)

    def load(self, *, download: bool = False) -> DataSet:
        """Load the data set.

        Args:
            download: whether files may be downloaded to `root`.

        Raises:
            ValueError: if no data set is recorded, the name is unknown, or the data do not have
                the recorded shape or columns.
        """
        return self.binarized(self.read_data(download=download))

    def of(self, data: DataSet) -> Self:
        """Return the source with a record of the data that it was loaded as, for a run."""
        return dataclasses.replace(
            self,
            shape=data.shape,
            reading=data.reading.record,
            content=Content.of(data),
            columns=data.columns,
        )

    def split(self, split: str = "test", *, limit: int | None = None) -> Split:
        """Load one split, or its first `limit` rows.

        Raises:
            ValueError: as `load`, and as `met_again`.

        Warns:
            UserWarning: if the data changed since the training.
        """
        data = self.read_data()
        said = self.met_again(data, split)
        if said is not None:
            warnings.warn(said, stacklevel=2)
        return first(getattr(self.binarized(data), split), limit)

    def met_again(self, data: DataSet, split: str) -> str | None:
        """Compare a split with the data that the run was trained on.

        Args:
            data: the data of `read_data`, of this source or another.
            split: the split to be measured.

        Returns:
            A sentence if the data changed or have rows in common with the training data; None if
            they are those of the record, or nothing is recorded.

        Raises:
            ValueError: if the split is not the recorded one and is called validation or test, but
                has training rows, more than held-out data have by chance.
        """
        rows: Split = getattr(data, split)
        if self.content is None or not self.content.differs(split, rows):
            return None
        same = data.name == self.name
        overlap = self.content.overlap(rows)
        met = f"{overlap.found:,} of its {overlap.checked:,} rows that were compared"
        if split != "train" and overlap.trained_on:
            what = f"{data.name} changed since the training, and its {split} data are"
            raise ValueError(
                f"{what if same else f'{data.name} is'} no {split} set: the run was trained on "
                f"{met}. Leave these rows out, or evaluate them as training data, --split train"
            )
        if same:
            return (
                f"{data.name} changed since the training: its {split} data are others than then, "
                f"and the run was trained on {met}."
            )
        if split != "train" and overlap.found:
            return f"{data.name} has training data in it: the run was trained on {met}."
        return None


def _in_order(data: DataSet, columns: tuple[str, ...]) -> DataSet:
    """Return data with the columns of x in a given order, if both have names.

    Raises:
        ValueError: if they are not the same columns, or one name is that of several.
    """
    met = data.columns
    if not columns or not met or met == columns:
        return data
    for names, others, what in (
        (columns, met, f"{data.name} has no column {{!r}}, which the run was trained on: add it"),
        (met, columns, f"{data.name} has a column {{!r}}, which the run does not know: drop it"),
    ):
        known = set(others)
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise ValueError(what.format(unknown))
    if not len(set(columns)) == len(columns) == len(met):
        raise ValueError(
            f"{data.name} has not the columns of the run in their order, and several have one "
            "name: order them as those that the run was trained on"
        )
    places = {name: place for place, name in enumerate(met)}
    order = torch.tensor([places[name] for name in columns])
    splits: dict[str, Any] = {
        name: dataclasses.replace(split, x=split.x[:, order])
        for name, split in data.splits.items()
    }
    return dataclasses.replace(data, **splits, columns=columns)


def _same_kind(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether data have the shape of a run's, sequences whatever their longest."""
    lasts = len(shape) == len(other) == 2
    return shape[-1] == other[-1] if lasts else shape == other


def first(split: Split, limit: int | None) -> Split:
    """Return the first `limit` rows of a split, or all for None."""
    return split if limit is None else split.take(slice(limit))


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
