"""Data sets, batches on the device, and the domain that a likelihood checks.

Data are flat float vectors [N, D]. Grey images are intensities in [0, 1]; for a Bernoulli
likelihood they are binarised, either once (static) or afresh at each use (dynamic), each pixel
being 1 with its intensity as probability (Salakhutdinov and Murray, 2008).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.randomness import seeded as seeded

Batch = tuple[Any, ...]
Binarization = Literal["dynamic", "static"]

HELD_OUT: Final = 297
"""How many of the 1,797 handwritten digits make the validation set, and the test set."""

PIXELS: Final = 0x9E3779B9
"""The seed at which a dynamic split is drawn for measuring: far from those of the particles."""


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

    def draw(self, *, seed: int = PIXELS) -> Tensor:
        """Return x as a likelihood sees it: binarised, if it is dynamic, the same at each call.

        Raises:
            ValueError: if intensities to be binarised are not in [0, 1].
        """
        if not self.dynamic:
            return self.x
        check_domain(self.x, constraints.unit_interval, "dynamic binarisation")
        with seeded(seed):
            return torch.bernoulli(self.x)


def drawn_once(data: Any) -> Any:
    """Fix the pixels of a dynamic split in what `fit` takes: the same bits at each call.

    Example:
        >>> digits = load("digits")
        >>> x, labels = drawn_once((digits.test, digits.test.labels))
        >>> torch.equal(x, drawn_once(digits.test)), x.unique()
        (True, tensor([0., 1.]))
    """
    if isinstance(data, tuple) and data and isinstance(data[0], Split):
        return (data[0].draw(), *data[1:])
    return data.draw() if isinstance(data, Split) else data


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
    download: bool = True,
) -> DataSet:
    """Load a data set as tensors.

    Args:
        name: "digits", 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn and
            need no download, or "mnist" through torchvision, 50,000 / 10,000 / 10,000.
        root: the folder of the data set's files (torchvision's layout), for "mnist". Archives
            found there are verified and unpacked; what is missing is downloaded.
        binarization: "dynamic", "static" (once, always the same), or None for intensities.
        download: whether what is missing may be downloaded, and the folder be made.

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
        splits, shape = _mnist(root, download=download), (1, 28, 28)
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
        data: a tensor, a tuple (x, *context) of tensors with a row per datum (x may be a
            `Split`), a `Split`, a torch `Dataset` (its items go through torch's default collation,
            and what follows x in them is context), or an iterable of batches that can be walked
            more than once. A stream is not walked to find its length: `number` is None, and there
            is no `len`, until a walk has come to its end.
        batch_size: the number of data in a batch; the last may be smaller. An iterable of
            batches keeps its own.
        shuffle: whether to draw a new order at each walk.
        device: where the batches are moved to; as they come where it is None. Tensors for a GPU
            are moved whole, once, if half of its free memory holds them.

    Raises:
        ValueError: if there are no data, tensors differ in length, an iterator is given that is
            spent after one walk, or what another library holds; the line that mends it is named.

    Example:
        >>> [len(x) for x, in Batches(torch.zeros(5, 2), 2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        shuffle: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch has at least one datum; got batch_size={batch_size}")
        self.data, self.batch_size, self.shuffle, self.device = data, batch_size, shuffle, device
        self.dynamic, tensors = _tensors(data)
        self.tensors = _resident(tensors, device)
        self.source: Iterable[Any] = () if self.tensors else _source(data, batch_size, shuffle)
        self.number = self._count()

    def __len__(self) -> int:
        """Return the number of batches in a walk."""
        if self.number is None:
            raise TypeError("a stream has no length before it was walked over once")
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        """Walk over the data once."""
        number = 0
        for batch in self._cut() if self.tensors else _batches(self.source):
            number += 1
            yield tuple(v.to(self.device) if isinstance(v, Tensor) else v for v in batch)
        if number == 0:
            raise ValueError(
                "the data are empty: there is no batch. (An iterable of batches is walked more "
                "than once: put an iterator in a list.)"
            )
        self.number = number

    def in_order(self, batch_size: int, *, first: int | None = None) -> Batches:
        """Return the same data, held once, in their own order and in batches of another size.

        A dynamic split is binarised once, as `drawn_once` does, and the first of it kept: what is
        measured in training are the pixels that `evaluate` measures.
        """
        again = copy.copy(self)
        again.batch_size, again.shuffle = batch_size, False
        if self.dynamic:
            _, tensors = _tensors(drawn_once(self.data))
            again.dynamic = False
            again.tensors = _resident(tuple(t[:first].clone() for t in tensors), self.device)
        elif not self.tensors:
            again.source = _source(self.data, batch_size, shuffle=False)
        again.number = again._count()
        return again

    def _cut(self) -> Iterator[Batch]:
        x, *context = self.tensors
        order = torch.randperm(len(x), device=x.device) if self.shuffle else None
        for start in range(0, len(x), self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            rows = rows if order is None else order[rows]
            drawn = torch.bernoulli(x[rows]) if self.dynamic else x[rows]
            yield drawn, *(value[rows] for value in context)

    def _count(self) -> int | None:
        if self.tensors:
            return math.ceil(len(self.tensors[0]) / self.batch_size)
        try:
            number = len(cast(Sized, self.source))
        except TypeError:
            return None
        if number == 0:
            raise ValueError("the data are empty: there is no batch")
        return number


def check_finite(x: Any) -> None:
    """Hold x against what every program wants: a tensor with rows, all of them finite.

    Raises:
        ValueError: naming the shape, or the first row that is not finite.
    """
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise ValueError(f"x is a tensor [N, ...]; got {named(x)}")
    if x.ndim < 1 or x.numel() < 1:
        raise ValueError(f"x is a tensor with at least one row, [N, ...]; got {tuple(x.shape)}")
    finite = torch.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"x has NaN or infinite values in {len(bad)} of {len(x)} data, the first at row "
            f"{int(bad[0])}: drop these rows, or fill the values in and mask them"
        )


def check_context(values: Iterable[Any]) -> None:
    """Hold the tensors beside x against what programs can make something of.

    Raises:
        ValueError: for numbers that are not finite, and for codes below 0, which would index from
            the end; naming the first row.

    Example:
        >>> check_context([torch.tensor([0, 2, -1])])
        Traceback (most recent call last):
        ValueError: context 1 has whole numbers below 0 in 1 of 3 rows, the first -1 at row 2...
    """
    for number, value in enumerate(values, 1):
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.ndim == 0:
            continue
        codes = not (value.is_floating_point() or value.is_complex())
        bad = (value < 0) if codes else ~torch.isfinite(value)
        rows = bad.reshape(len(value), -1).any(1).nonzero().flatten()
        if not len(rows):
            continue
        row = int(rows[0])
        met = value[row][bad[row]].flatten()[0].item()
        kind, remedy = "NaN or infinite values", "drop these rows, or fill the values in"
        if codes:
            kind = "whole numbers below 0"
            remedy = (
                "pandas codes a missing category as -1: drop these rows, or give it a code of its "
                "own, codes + 1. Numbers that may be negative are given as floats"
            )
        raise ValueError(
            f"context {number} has {kind} in {len(rows)} of {len(value)} rows, the first {met} "
            f"at row {row}: {remedy}"
        )


def value_in(domain: constraints.Constraint) -> Any:
    """Return a value that a likelihood of this domain can score, far from where it is infinite.

    Example:
        >>> value_in(constraints.nonnegative_integer), value_in(constraints.positive)
        (0.0, 0.5)
    """
    if isinstance(domain, constraints.stack):
        return torch.tensor([value_in(own) for own in domain.cseq])
    for value in (0.0, 0.5, 1.0):
        if bool(domain.check(torch.tensor(value))):
            return value
    return float(cast(Any, domain).lower_bound)


def named(value: Any) -> str:
    """Return what a value is, and the line that makes a tensor of it, if one is known.

    Example:
        >>> import numpy
        >>> named(numpy.zeros(3))
        'ndarray: give torch.from_numpy(x).float()'
    """
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor in the layout {value.layout}: give x.to_dense()"
    home = type(value).__module__.partition(".")[0]
    lines = {
        "numpy": "torch.from_numpy(x).float()",
        "pandas": 'torch.from_numpy(x.to_numpy("float32"))',
        "polars": "torch.from_numpy(x.to_numpy()).float()",
        "scipy": "torch.from_numpy(x.toarray()).float()",
        "PIL": "torchvision.transforms.functional.to_tensor(x).flatten()",
    }
    line = lines.get(home)
    if line is None and (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        line = "torch.from_numpy(numpy.asarray(x)).float()"
    return kind if line is None else f"{kind}: give {line}"


def flat_line(image: Any) -> str:
    """Return the line that flattens images [N, ...] as networks read them, channel by channel.

    Example:
        >>> flat_line(torch.zeros(5, 1, 28, 28)), flat_line(torch.zeros(5, 32, 32, 3))
        ('x.flatten(1)', 'x.movedim(-1, 1).flatten(1)')
    """
    channels_last = image.ndim == 4 and 1 < image.shape[3] <= 4 < min(image.shape[1:3])
    return "x.movedim(-1, 1).flatten(1)" if channels_last else "x.flatten(1)"


def check_domain(
    x: Tensor, domain: constraints.Constraint, owner: str, *, mask: Tensor | None = None
) -> None:
    """Hold the values of x against the domain of a likelihood, those that a mask leaves out last.

    Raises:
        ValueError: naming a value outside the domain and a way to mend it.

    Example:
        >>> check_domain(torch.tensor([[0.0, 0.5]]), constraints.boolean, "Bernoulli")
        Traceback (most recent call last):
        ValueError: Bernoulli takes values that are 0 or 1; got 0.5 at row 0. Grey ...
    """
    if mask is not None:
        check_domain(torch.where(mask, x, torch.as_tensor(value_in(domain)).to(x)), domain, owner)
    if isinstance(domain, constraints.stack):
        for column, own in enumerate(domain.cseq):
            place = None if mask is None else mask[..., column]
            check_domain(x[..., column], own, f"{owner} at column {column}", mask=place)
        return
    rows = (~(domain.check(x) & torch.isfinite(x))).reshape(len(x), -1)
    if rows.any():
        row = int(rows.any(1).nonzero()[0])
        value = float(x.reshape(len(x), -1)[row][rows[row]][0])
        wanted, remedy = _in_words(domain)
        where = f"row {row}"
        if mask is not None:
            where = f"row {row}, a missing entry"
            remedy = (
                "What stands at missing entries is not read, but is of the same kind: "
                f"torch.where(mask, x, {value_in(domain)})"
            )
        raise ValueError(
            f"{owner} takes values that are {wanted}; got {value:g} at {where}. {remedy}"
        )


class _OpenUnitInterval(constraints.Constraint):
    """Constrain to numbers above 0 and below 1."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which values lie strictly between 0 and 1."""
        return (value > 0) & (value < 1)


open_unit_interval: Final = _OpenUnitInterval()


def _in_words(domain: constraints.Constraint) -> tuple[str, str]:
    """Return what values a domain holds, and a way to mend others."""
    if isinstance(domain, constraints.integer_interval):
        low, high = domain.lower_bound, domain.upper_bound
        remedy = f"Intensities in [0, 1] become such levels by ({high} * x).round()."
        return f"whole numbers from {low} to {high}", remedy
    return _DOMAINS.get(domain, (f"in {domain}", "Choose another likelihood."))


_DOMAINS: Final[dict[Any, tuple[str, str]]] = {
    constraints.boolean: (
        "0 or 1",
        "Grey pixels are binarised first: pyrovae.data.load(binarization='dynamic') or "
        "torch.bernoulli(x)",
    ),
    constraints.real: ("finite real numbers", "Drop or mask the values that are not."),
    constraints.unit_interval: ("in [0, 1]", "Divide the pixels by 255."),
    open_unit_interval: (
        "above 0 and below 1",
        "Shrink the data, 0.5 + 0.99 * (x - 0.5), or take ContinuousBernoulli, which allows both.",
    ),
    constraints.nonnegative_integer: ("counts 0, 1, 2, ...", "Round or rescale the data."),
}


def _tensors(data: Any) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether x is dynamic, and x and its context; none where data are not tensors."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    values = data if isinstance(data, tuple) else (data,)
    x = values[0] if values else None
    dynamic = isinstance(x, Split) and x.dynamic
    tensors = (x.x, *values[1:]) if isinstance(x, Split) else values
    whole = isinstance(data, tuple) and not isinstance(x, tuple | list)
    bad = [v for v in tensors if not isinstance(v, Tensor) or v.layout != torch.strided]
    if bad and (whole or isinstance(bad[0], Tensor)):
        raise ValueError(
            f"data (x, *context) are tensors with a row for each datum; got {named(bad[0])}"
        )
    if bad:
        return False, ()
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(lengths) > 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"x and its context have one row per datum each; got shapes {shapes}")
    if lengths <= {0}:
        raise ValueError("the data are empty: x needs at least one row")
    return dynamic, tensors


def _resident(tensors: tuple[Tensor, ...], device: torch.device | None) -> tuple[Tensor, ...]:
    """Move the data to the GPU whole, once, if half of its free memory holds them."""
    if device is None or device.type != "cuda":
        return tensors
    wanted = sum(tensor.nbytes for tensor in tensors if tensor.device != device)
    free, _ = torch.cuda.mem_get_info(device)
    return tuple(tensor.to(device) for tensor in tensors) if wanted <= free / 2 else tensors


def _source(data: Any, batch_size: int, shuffle: bool) -> Iterable[Any]:  # noqa: FBT001
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size, shuffle=shuffle)
    met, remedy = named(data), "Put an iterator in a list"
    if isinstance(data, DataSet):
        remedy = "Give one of its splits, data.train"
    elif isinstance(data, Mapping | str | bytes):
        remedy = "Give x by itself, or a tuple (x, *context)"
    elif ": give" in met:
        remedy = ""
    elif isinstance(data, Iterable) and not isinstance(data, Iterator):
        return data
    raise ValueError(
        "data are a tensor, a tuple (x, *context), a Split, a Dataset or an iterable of batches "
        f"that can be walked at every epoch; got {met}. {remedy}".rstrip(". ")
    )


def _batches(source: Iterable[Any]) -> Iterator[Batch]:
    """Yield the batches of an iterable as tuples that begin with a tensor."""
    try:
        for batch in source:
            values = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
            if not values or not isinstance(values[0], Tensor):
                met = named(values[0]) if values else "an empty one"
                if isinstance(batch, Mapping):
                    met = f"{met} with the keys {list(batch)}: give batch[key] of that which is x"
                elif isinstance(batch, list) and isinstance(
                    values[0] if values else 0, int | float
                ):
                    met = "a list of numbers: give torch.tensor(data)"
                raise ValueError(
                    "an iterable of data gives batches, tensors [N, ...] or tuples (x, *context) "
                    f"of them; got {met}"
                )
            yield values
    except TypeError as error:
        if "default_collate" not in str(error):
            raise
        kind = str(error).rpartition("found ")[2].strip()
        raise ValueError(
            f"the items of the data set cannot be put in a batch: they hold {kind}. Let it give "
            "tensors; images by transform=torchvision.transforms.ToTensor()"
        ) from error


def _digits() -> list[Split]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(pixels).float()[order] / 16
    y = torch.from_numpy(labels).long()[order]
    sizes = [len(x) - 2 * HELD_OUT, HELD_OUT, HELD_OUT]
    return [Split(*pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True)]


def _mnist(root: str | Path | None, *, download: bool) -> list[Split]:
    from torchvision.datasets import MNIST

    if root is None:
        raise ValueError(
            "'mnist' needs the folder that holds, or shall hold, MNIST/raw: "
            "load('mnist', root='data'), or --root data on the command line"
        )
    try:
        train, test = (MNIST(str(root), train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        tried = ", nor download it there" if download else ""
        advice = "" if download else ": say where they are, or shall be, with --root"
        raise OSError(f"cannot load MNIST from {root}{tried}: {error}{advice}") from error
    x, y = _pixels(train.data), train.targets
    return [
        Split(x[:50_000], y[:50_000]),
        Split(x[50_000:], y[50_000:]),
        Split(_pixels(test.data), test.targets),
    ]


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
