"""Read folders of image files, and single images, with Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pyrovae.data.reading import Contents, NoColumn, Reading
from pyrovae.data.splits import SPLITS

__all__ = ["SUFFIXES", "read_folder", "stacked"]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm")

MODES: Final = ("1", "L", "P", "RGB")
"""The modes of Pillow that are read: gray images of one channel, others of three."""


def read_folder(folder: Path, reading: Reading) -> Contents:
    """Read a folder of images.

    Images lie in the folder itself, in one subfolder for each class, or in either form below
    folders that are named train, test and, possibly, validation. Classes become labels. Hidden
    files and folders are left out, and links to folders are followed.

    Raises:
        ValueError: if there are no images, they differ in size and no size is given, a file is
            no image of 8 bits, or holds several, or images lie beside folders named train and
            test.
    """
    if asked := [*reading.asked(), *([reading.key] if reading.key else [])]:
        raise NoColumn(
            str(asked[0]),
            f"{folder} is a folder of images, which has no columns: its subfolders are the "
            "labels, and those named train and test the splits",
        )
    parts = _parts(folder)
    paths, classes, splits = [], [], []
    for part, split in parts.items():
        for path in _images(part):
            paths.append(path)
            classes.append(path.relative_to(part).parts[0] if path.parent != part else None)
            splits.append(split)
    if not paths:
        raise ValueError(f"{folder} holds no images: {', '.join(SUFFIXES)}")
    if None in classes and len(set(classes)) > 1:
        raise ValueError(
            f"{folder} holds images beside folders of images: a class is a folder of its own"
        )
    return Contents(
        stacked((_opened(path) for path in paths), reading, names=[str(path) for path in paths]),
        labels=None if None in classes else np.array(classes),
        splits=None if None in splits else np.array(splits),
        images=True,
    )


def _parts(folder: Path) -> dict[Path, str | None]:
    """Return the folders of the splits with their names, or the whole folder without one.

    Raises:
        ValueError: if other images lie beside folders named train and test, which could be
            classes or splits.
    """
    below = [path for path in sorted(folder.iterdir()) if not _is_hidden(path.name)]
    given = {path: SPLITS.get(path.name.lower()) for path in below if path.is_dir()}
    splits = {path: split for path, split in given.items() if split is not None}
    if not splits:
        return {folder: None}
    others = [path for path in below if path not in splits and _holds_images(path)]
    if others and {"train", "test"} <= {*splits.values()}:
        raise ValueError(
            f"{folder} has the folders train and test, and images beside them, in "
            f"{others[0].name}: move these to one of the two, or elsewhere"
        )
    return {folder: None} if others else dict(splits)


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that systems leave beside others."""
    return name.startswith(".") or name == "__MACOSX"


def _holds_images(path: Path) -> bool:
    return bool(_images(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES


def stacked(images: Iterable[Any], reading: Reading, *, names: Sequence[str]) -> Any:
    """Return images as an array uint8 [N, H, W, C], gray ones with one channel.

    Args:
        images: images of Pillow. If some have colors, all get three channels.
        reading: the option `size`, to which they are scaled and cropped around the center.
        names: their names, for error messages.

    Raises:
        ValueError: if images differ in size and no size is given, or have transparent pixels or
            more than 8 bits.
    """
    size = reading.size
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    found: list[Any] = []
    for name, image in zip(names, images, strict=True):
        image = _plain(image, name)
        if size is not None:
            image = ImageOps.fit(image, (width, height))
        array = np.asarray(image, dtype=np.uint8)
        array = array[..., None] if array.ndim == 2 else array
        if found and array.shape[:2] != found[0].shape[:2]:
            sizes = [f"{a.shape[0]} x {a.shape[1]}" for a in (found[0], array)]
            raise ValueError(
                f"{name} has {sizes[1]} pixels, {names[0]} {sizes[0]}: give the option size, to "
                "which images are scaled and cropped, such as size=64"
            )
        found.append(array)
    channels = max(array.shape[2] for array in found)
    return np.stack([a if a.shape[2] == channels else a.repeat(channels, 2) for a in found])


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES)


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, also behind links to folders, which `rglob` leaves out."""
    here = folder.resolve()
    if here in above:  # a link to a folder that holds it
        return
    for path in folder.iterdir():
        if _is_hidden(path.name):
            continue
        if path.is_dir():
            yield from _files(path, (*above, here))
        else:
            yield path


def _opened(path: Path) -> Any:
    """Return an image as it is looked at: cameras store it as it is and note how it is turned."""
    try:
        with Image.open(path) as image:
            image.load()
            several = _has_pages(image)
            upright = ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, EOFError, SyntaxError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error
    if several:
        raise ValueError(
            f"{path} holds several images, such as the pages of a stack: save each as a file of "
            "its own"
        )
    return upright


def _has_pages(image: Any) -> bool:
    """Return whether a file holds further images of the same size; smaller ones are previews.

    Those that cameras write beside a photograph (MPO) are none either.
    """
    size, pages = image.size, getattr(image, "n_frames", 1)
    if image.format == "MPO":
        return False
    for page in range(1, pages):
        image.seek(page)
        if image.size == size:
            return True
    if pages > 1:
        image.seek(0)
        image.load()
    return False


def _plain(image: Any, name: str) -> Any:
    """Return an image with one gray channel or three colors."""
    if "transparency" in image.info:  # a color of a palette, or one that stands for transparency
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode in ("LA", "RGBA") and image.getextrema()[-1] == (255, 255):
        image = image.convert(image.mode[:-1])
    if image.mode not in MODES:
        raise ValueError(
            f"{name} has the mode {image.mode} of Pillow: save it with 8 bits in gray or RGB, "
            "without transparency"
        )
    wanted = {"1": "L", "P": "RGB"}.get(image.mode, image.mode)
    return image if image.mode == wanted else image.convert(wanted)
