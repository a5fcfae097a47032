"""Data sets with train, validation and test splits, as flat float vectors [N, D]."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.domains import check_domain
from pyrovae.data.streams import Streamed
from pyrovae.data.transformed import Transformed
from pyrovae.randomness import seeded
from pyrovae.types import Data

__all__ = ["HELD_OUT", "PIXELS", "Binarization", "DataSet", "Split", "drawn_once", "load"]

Binarization = Literal["dynamic", "static"]

HELD_OUT: Final = 297
"""The number of digits, of 1,797, in the validation set and in the test set."""

PIXELS: Final = 0x9E3779B9
"""The seed that binarizes a dynamic split for evaluation, distinct from the particles' seeds."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        x: the data, float [N, D].
        labels: integers [N], for figures and probes; the programs do not get them.
        dynamic: whether `x` holds intensities that are binarized anew at each use.
    """

    x: Tensor
    labels: Tensor
    dynamic: bool = False

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.x)

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


def drawn_once(data: Data) -> Any:
    """Replace a dynamic split in the data of `fit` by its pixels, the same at each call.

    Example:
        >>> digits = load("digits")
        >>> x, labels = drawn_once((digits.test, digits.test.labels))
        >>> torch.equal(x, drawn_once(digits.test)), x.unique()
        (True, tensor([0., 1.]))
    """
    if isinstance(data, Streamed | Transformed):
        return replace(data, data=drawn_once(data.data))
    if isinstance(data, tuple) and data and isinstance(data[0], Split):
        return (data[0].draw(), *data[1:])
    return data.draw() if isinstance(data, Split) else data


@dataclass(frozen=True)
class DataSet:
    """Train, validation and test splits, with the shape of the images and the domain of x.

    Attributes:
        name: the name given to `load`.
        train: the training set.
        validation: the validation set, for early stopping.
        test: the test set.
        shape: (channels, height, width) of the images; a row of x is a flattened image.
        domain: the domain of x, a `torch.distributions.constraints` object.
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
        name: "digits", 1,797 handwritten digits of 8 x 8 pixels that are part of scikit-learn, or
            "mnist", loaded by torchvision and split into 50,000 / 10,000 / 10,000.
        root: for "mnist", the folder of the files in torchvision's layout. Existing archives are
            verified and unpacked.
        binarization: "dynamic", "static" (sampled once with a fixed seed), or None for
            intensities.
        download: whether to create the folder and download missing files.

    Raises:
        ValueError: if the name or binarization is unknown, or "mnist" has no root.
        OSError: if the files do not exist and are not downloaded.

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
        raise ValueError(f"binarization must be 'dynamic', 'static' or None; got {binarization!r}")
    if name == "digits":
        splits, shape = _digits(), (1, 8, 8)
    elif name == "mnist":
        splits, shape = _mnist(root, download=download), (1, 28, 28)
    else:
        raise ValueError(f"unknown data set {name!r}: choose 'digits' or 'mnist'")
    if binarization == "dynamic":
        splits = [replace(split, dynamic=True) for split in splits]
    if binarization == "static":
        with seeded(0):
            splits = [replace(split, x=torch.bernoulli(split.x)) for split in splits]
    domain = constraints.unit_interval if binarization is None else constraints.boolean
    train, validation, test = splits
    return DataSet(name, train, validation, test, shape=shape, domain=domain)


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
            "'mnist' needs a root, the folder that contains or receives MNIST/raw: "
            "load('mnist', root='data'), or --root data on the command line"
        )
    try:
        train, test = (MNIST(str(root), train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        tried = ", nor download it there" if download else ""
        advice = "" if download else ": give the folder that contains or receives it with --root"
        raise OSError(f"cannot load MNIST from {root}{tried}: {error}{advice}") from error
    x, y = _pixels(train.data), train.targets
    return [
        Split(x[:50_000], y[:50_000]),
        Split(x[50_000:], y[50_000:]),
        Split(_pixels(test.data), test.targets),
    ]


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
