"""Data sets, batches on the device, and the domain that a likelihood checks.

Data are flat float vectors [N, D]. Grey images are intensities in [0, 1]; for a Bernoulli
likelihood they are binarised, either once (static) or afresh at each use (dynamic), each pixel
being 1 with its intensity as probability (Salakhutdinov and Murray, 2008).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.utils.data import DataLoader, Dataset, TensorDataset

Batch = tuple[Any, ...]
Binarization = Literal["dynamic", "static"]

HELD_OUT: Final = 297
"""How many of the 1,797 handwritten digits make the validation set, and the test set."""


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block at a seed of its own and put torch's generators back as they were.

    With None the block draws from the generators as they stand.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     assert torch.equal(first, torch.rand(1))
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        x: [N, D], float.
        labels: [N], whole numbers; for figures and probes, never given to the programs.
        dynamic: whether `x` holds intensities that each use binarises afresh.
    """

    x: Tensor
    labels: Tensor
    dynamic: bool = False

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.x)

    def draw(self, *, seed: int | None = None) -> Tensor:
        """Return x as a likelihood sees it: binarised once, at the seed, if it is dynamic."""
        if not self.dynamic:
            return self.x
        with seeded(seed):
            return torch.bernoulli(self.x)


@dataclass(frozen=True)
class DataSet:
    """Train, validation and test splits, with what a likelihood and a figure need to know.

    Attributes:
        name: as given to `load`.
        train: the data to fit.
        validation: the data to stop by.
        test: the data to report on.
        shape: (channels, height, width) of an image whose flat form is a row of x.
        domain: the values that x takes.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    shape: tuple[int, int, int]
    domain: constraints.Constraint


def load(
    name: str = "digits",
    root: str | Path | None = None,
    *,
    binarization: Binarization | None = "dynamic",
) -> DataSet:
    """Load a data set as tensors.

    Args:
        name: "digits", 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn and
            need no download, or "mnist" through torchvision, 50,000 / 10,000 / 10,000.
        root: the folder of the data set's files (torchvision's layout), for "mnist". Archives
            found there are verified and unpacked; what is missing is downloaded.
        binarization: "dynamic", "static" (once, always the same), or None for intensities.

    Raises:
        ValueError: for an unknown name or binarisation, or "mnist" without a root.
        OSError: if the files are neither there nor to be downloaded.

    References:
        Salakhutdinov, Murray, 2008. On the Quantitative Analysis of Deep Belief Networks.
        LeCun, Bottou, Bengio, Haffner, 1998 (MNIST). Alpaydin, Kaynak, 1998 (digits).

    Example:
        >>> digits = load("digits")
        >>> digits.train.x.shape, digits.shape
        (torch.Size([1203, 64]), (1, 8, 8))
        >>> digits.test.draw(seed=0).unique()
        tensor([0., 1.])
    """
    if binarization not in ("dynamic", "static", None):
        raise ValueError(f"binarization is 'dynamic', 'static' or None; got {binarization!r}")
    if name == "digits":
        splits, shape = _digits(), (1, 8, 8)
    elif name == "mnist":
        splits, shape = _mnist(root), (1, 28, 28)
    else:
        raise ValueError(f"unknown data set {name!r}: the known ones are 'digits' and 'mnist'")
    if binarization == "dynamic":
        splits = [replace(split, dynamic=True) for split in splits]
    if binarization == "static":
        with seeded(0):
            splits = [replace(split, x=torch.bernoulli(split.x)) for split in splits]
    domain = constraints.unit_interval if binarization is None else constraints.boolean
    train, validation, test = splits
    return DataSet(name, train, validation, test, shape=shape, domain=domain)


class Batches:
    """Cut data into batches, tuples (x, *context), on the device where the tensors lie.

    Tensors are indexed as a whole: no Python runs per item. A dynamic `Split` is binarised afresh
    in every batch.

    Args:
        data: a tensor, a tuple (x, *context) of tensors with a row per datum, a `Split`, a torch
            `Dataset` (its items go through torch's default collation), or an iterable of batches
            that can be walked more than once.
        batch_size: the number of data in a batch; the last may be smaller. An iterable of
            batches keeps its own.
        shuffle: whether to draw a new order at each walk.

    Raises:
        ValueError: if there are no data, tensors differ in length, or an iterator is given that
            is spent after one walk.

    Example:
        >>> [len(x) for x, in Batches(torch.zeros(5, 2), 2)]
        [2, 2, 1]
    """

    def __init__(self, data: Any, batch_size: int, *, shuffle: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch has at least one datum; got batch_size={batch_size}")
        self.batch_size, self.shuffle = batch_size, shuffle
        self.dynamic = isinstance(data, Split) and data.dynamic
        self.tensors = _tensors(data)
        self.source: Iterable[Any] = () if self.tensors else _source(data, batch_size, shuffle)

    def __len__(self) -> int:
        """Return the number of batches in a walk."""
        if self.tensors:
            return math.ceil(len(self.tensors[0]) / self.batch_size)
        return len(cast(Any, self.source))

    def __iter__(self) -> Iterator[Batch]:
        """Walk over the data once."""
        if not self.tensors:
            for batch in self.source:
                yield tuple(batch) if isinstance(batch, list | tuple) else (batch,)
            return
        x, *context = self.tensors
        order = torch.randperm(len(x), device=x.device) if self.shuffle else None
        for start in range(0, len(x), self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            rows = rows if order is None else order[rows]
            drawn = torch.bernoulli(x[rows]) if self.dynamic else x[rows]
            yield drawn, *(value[rows] for value in context)


def check_finite(x: Any) -> None:
    """Hold x against what every program wants: a tensor with rows, all of them finite.

    Raises:
        ValueError: naming the shape, or the first row that is not finite.
    """
    if not isinstance(x, Tensor) or x.ndim < 1 or x.numel() < 1:
        met = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is a tensor with at least one row, [N, ...]; got {met}")
    finite = torch.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"x has NaN or infinite values in {len(bad)} of {len(x)} data, the first at row "
            f"{int(bad[0])}: drop these rows, or mask the values"
        )


def check_domain(x: Tensor, domain: constraints.Constraint, owner: str) -> None:
    """Hold the values of x against the domain of a likelihood.

    Raises:
        ValueError: naming a value outside the domain and a way to mend it.

    Example:
        >>> check_domain(torch.tensor([[0.0, 0.5]]), constraints.boolean, "Bernoulli")
        Traceback (most recent call last):
        ValueError: Bernoulli takes values that are 0 or 1; got 0.5 at row 0. Grey ...
    """
    rows = (~(domain.check(x) & torch.isfinite(x))).reshape(len(x), -1)
    if rows.any():
        row = int(rows.any(1).nonzero()[0])
        value = float(x.reshape(len(x), -1)[row][rows[row]][0])
        wanted, remedy = _DOMAINS.get(domain, (f"in {domain}", "Choose another likelihood."))
        raise ValueError(
            f"{owner} takes values that are {wanted}; got {value:g} at row {row}. {remedy}"
        )


_DOMAINS: Final[dict[Any, tuple[str, str]]] = {
    constraints.boolean: (
        "0 or 1",
        "Grey pixels are binarised first: pyrovae.data.load(binarization='dynamic') or "
        "torch.bernoulli(x)",
    ),
    constraints.real: ("finite real numbers", "Drop or mask the values that are not."),
    constraints.unit_interval: ("in [0, 1]", "Divide the pixels by 255."),
    constraints.nonnegative_integer: ("counts 0, 1, 2, ...", "Round or rescale the data."),
}


def _tensors(data: Any) -> tuple[Tensor, ...]:
    if isinstance(data, Split):
        data = data.x
    if isinstance(data, TensorDataset):
        data = data.tensors
    tensors = (data,) if isinstance(data, Tensor) else data
    if not (isinstance(tensors, tuple) and all(isinstance(t, Tensor) for t in tensors)):
        return ()
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"x and its context have one row per datum each; got shapes {shapes}")
    if not lengths or lengths == {0}:
        raise ValueError("the data are empty: x needs at least one row")
    return tensors


def _source(data: Any, batch_size: int, shuffle: bool) -> Iterable[Any]:  # noqa: FBT001
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size, shuffle=shuffle)
    if isinstance(data, Iterator) or not isinstance(data, Iterable):
        raise ValueError(
            "data are a tensor, a tuple (x, *context), a Dataset or an iterable of batches that "
            f"can be walked at every epoch; got {type(data).__name__}. Put an iterator in a list"
        )
    return data


def _digits() -> list[Split]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(pixels).float()[order] / 16
    y = torch.from_numpy(labels).long()[order]
    sizes = [len(x) - 2 * HELD_OUT, HELD_OUT, HELD_OUT]
    return [Split(*pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True)]


def _mnist(root: str | Path | None) -> list[Split]:
    from torchvision.datasets import MNIST

    if root is None:
        raise ValueError(
            "'mnist' needs the folder that holds, or shall hold, MNIST/raw: "
            "load('mnist', root='data'), or --root data on the command line"
        )
    try:
        train, test = (MNIST(str(root), train=part, download=True) for part in (True, False))
    except RuntimeError as error:
        raise OSError(f"cannot load MNIST from {root}, nor download it there: {error}") from error
    x, y = _pixels(train.data), train.targets
    return [
        Split(x[:50_000], y[:50_000]),
        Split(x[50_000:], y[50_000:]),
        Split(_pixels(test.data), test.targets),
    ]


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
