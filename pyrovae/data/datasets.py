"""Data sets, batches on the device, and the domain that a likelihood checks.

Data are flat float vectors [N, D]. Gray images are intensities in [0, 1]; for a Bernoulli
likelihood they are binarized, either once (static) or afresh at each use (dynamic), each pixel
being 1 with its intensity as probability (Salakhutdinov and Murray, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.domains import check_domain
from pyrovae.randomness import seeded

__all__ = ["HELD_OUT", "PIXELS", "Binarization", "DataSet", "Split", "drawn_once", "load"]

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
        dynamic: whether `x` holds intensities that each use binarizes afresh.
    """

    x: Tensor
    labels: Tensor
    dynamic: bool = False

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.x)

    def draw(self, *, seed: int = PIXELS) -> Tensor:
        """Return x as a likelihood sees it: binarized, if it is dynamic, the same at each call.

        Raises:
            ValueError: if intensities to be binarized are not in [0, 1].
        """
        if not self.dynamic:
            return self.x
        check_domain(self.x, constraints.unit_interval, "dynamic binarization")
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
        ValueError: for an unknown name or binarization, or "mnist" without a root.
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
