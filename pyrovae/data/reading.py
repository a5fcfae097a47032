"""What a reader is asked for, and what it returns: arrays before they are split.

A reader is a function of a path, or of a folder and a name, that returns `Contents`. What is
common to all of them, such as the conversion to floats and the splits, follows in
`pyrovae.data.datasets`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np

__all__ = ["ELSEWHERE", "FRACTIONS", "Contents", "Kind", "NoColumn", "Reading", "extra"]

Kind = Literal["category", "number"] | Sequence[str] | None
"""What a covariate is: a number, a category, one of these categories, or what its type says."""

ELSEWHERE: Final = {"look": "key", "side": "size"}
"""The options that are named otherwise for `pyrovae.data.Sprites`, and their names here."""

FRACTIONS: Final = (0.8, 0.1, 0.1)
"""The shares of the rows in train, validation and test, where nothing else gives the splits."""


class NoColumn(ValueError):  # noqa: N818
    """Raised for a column or key that is asked for and does not exist.

    Attributes:
        column: its name.
    """

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set is read.

    Attributes:
        key: what holds x, where a file holds several arrays: a key of .npz or .pt, "raw", "X" or
            a layer of .h5ad, a column of a Hugging Face data set, the part of EMNIST; or the
            names of the columns of a table that make x.
        labels: the column or key of labels, which are for figures and never reach the programs.
        covariates: the columns or keys of the context, one tensor each in this order. Strings
            become one-hot vectors, floats stay as they are. Whole numbers may be either: give a
            mapping such as {"batch": "category", "age": "number"}. A list instead of "category"
            gives the categories in order.
        split: the column or key that names each row's split, or such an array of names.
        fractions: the shares of train, validation and test where neither `split` nor the data
            set itself gives the splits.
        seed: the seed of this division.
        shape: (channels, height, width) if rows of numbers are flattened images.
        channels: the place of an image's channels, "first" or "last", where it cannot be told.
        size: the height and width to which images of a folder are scaled and cropped, or one
            number for both.
        levels: the number of whole levels 0, 1, ... of a pixel, instead of intensities in [0, 1].
        limit: the number of images of a set with known factors of variation, drawn at random by
            the seed; None for 50,000, or as many as take 1 GiB as float32.
        table: whether a file of columns is read by the schema of a `Table`, with missing values
            and columns of all kinds. None reads it so if a column is not numeric or has a missing
            value. The record of a table reads it by that schema.
        columns: the kinds of columns of the table, as of `Table.of`.
        vocabulary: the unit and the size of the vocabulary of texts, as of `Vocabulary.of`, which
            is made of the training texts; or the record of a vocabulary that there is.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np, pyrovae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.npy"
        ...     np.save(path, np.random.default_rng(0).normal(size=(10, 3)).astype("float32"))
        ...     found = pv.data.load(path, fractions=(0.6, 0.2, 0.2))
        >>> found.train.x.shape, found.reading.fractions
        (torch.Size([6, 3]), (0.6, 0.2, 0.2))
    """

    key: str | Sequence[str] | None = None
    labels: str | None = None
    covariates: Sequence[str] | Mapping[str, Kind] = ()
    split: str | Sequence[str] | None = None
    fractions: tuple[float, float, float] = FRACTIONS
    seed: int = 0
    shape: tuple[int, int, int] | None = None
    channels: Literal["first", "last"] | None = None
    size: int | tuple[int, int] | None = None
    levels: int | None = None
    limit: int | None = None
    table: bool | Mapping[str, Any] | None = None
    columns: Mapping[str, Any] | None = None
    vocabulary: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the reading that options describe.

        Raises:
            ValueError: naming the option that is unknown or has the wrong type.

        Example:
            >>> from pyrovae.data import Reading
            >>> Reading.of({"covariate": ["batch"]})
            Traceback (most recent call last):
            ValueError: no option 'covariate': there are key, labels, covariates, split, ...
        """
        options = dict(options)
        names = [each.name for each in dataclasses.fields(cls)]
        for name in options:
            if name not in names:
                here = ELSEWHERE.get(name)
                hint = f"the {name} of sprites is {here}; " if here else ""
                raise ValueError(f"no option {name!r}: {hint}there are {', '.join(names)}")
        split = options.pop("split", None)
        if isinstance(options.get("covariates"), str):
            options["covariates"] = [options["covariates"]]
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
        try:
            found = msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            what = str(error).replace(" - at `$.", ", at `")
            raise ValueError(f"how the data are read: {what[0].lower()}{what[1:]}") from None
        if split is not None and not isinstance(split, str):
            split = tuple(np.asarray(split).astype(str).tolist())
        return dataclasses.replace(found, split=split)._checked()

    def _checked(self) -> Self:
        if min(self.fractions) < 0 or not 0.999 < sum(self.fractions) < 1.001:
            raise ValueError(
                "fractions are the shares of train, validation and test, which sum to 1; got "
                f"{self.fractions}"
            )
        keys = [] if self.key is None or isinstance(self.key, str) else list(self.key)
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"the option key lists the column {twice[0]!r} twice")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"pixels have at least two levels; got levels={self.levels}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is a number of images, at least 1; got {self.limit}")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each covariate is."""
        if isinstance(self.covariates, Mapping):
            return dict(self.covariates)
        return dict.fromkeys(self.covariates)

    @property
    def record(self) -> dict[str, Any]:
        """The entries that differ from the defaults, as JSON values, which `of` reads."""
        changed = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value != each.default and value not in ((), {}):
                changed[each.name] = list(value) if isinstance(value, tuple) else value
        return changed

    @property
    def one_key(self) -> str | None:
        """The key, for files whose arrays are chosen one at a time.

        Raises:
            ValueError: if it is a list.
        """
        if self.key is None or isinstance(self.key, str):
            return self.key
        raise ValueError(f"the option key names one array here; got {list(self.key)}")

    def asked(self) -> list[str]:
        """Return the names of the columns or keys that are not part of x."""
        split = [self.split] if isinstance(self.split, str) else []
        labels = [] if self.labels is None else [self.labels]
        return list(dict.fromkeys([*labels, *self.kinds, *split]))


@dataclass(frozen=True)
class Contents:
    """What a reader found.

    Attributes:
        x: the data, an array or a tensor [N, ...] of any type.
        labels: labels of the rows that the data set has of itself, if any.
        classes: the names of labels that are numbers, in their order, if the data set gives them.
        beside: the columns that were asked for, by name: labels, covariates, splits.
        splits: the name of each row's split, if the data set gives it.
        columns: the names of the dimensions of x, if they have names.
        images: True or False if the reader knows whether x holds images.
        counts: whether x holds counts, whatever its type.
        gray: whether the set is of gray images that are binarized by convention.
        frame: the whole frame of a table of mixed columns, whose schema makes x; `columns` are
            those of x.
        factors: the index of the value of each known factor of variation, whole numbers [N, F].
        factor_names: the names of these factors.
        mask: booleans [N, T] if x are sequences [N, T, D], True where there is a step.
        texts: texts, which a vocabulary makes x of.
    """

    x: Any = None
    labels: Any = None
    classes: tuple[str, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    splits: Any = None
    columns: tuple[str, ...] = ()
    images: bool | None = None
    counts: bool = False
    gray: bool = False
    frame: Any = None
    factors: Any = None
    factor_names: tuple[str, ...] = ()
    mask: Any = None
    texts: Sequence[str] | None = None


def extra(module: str, name: str) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: the module.
        name: the extra that installs it.

    Raises:
        ValueError: if it is not installed, with the command that installs it.

    Example:
        >>> extra("no_such_module", "cells")
        Traceback (most recent call last):
        ValueError: no_such_module is not installed: python -m pip install 'pyrovae[cells]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ValueError(
            f"{package} is not installed: python -m pip install 'pyrovae[{name}]'"
        ) from error
