"""Find the reader of a data set by its name, or by the suffix of its path."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pyrovae.data import (
    array_files,
    cells,
    factor_files,
    frames,
    hugging_face,
    image_folders,
    series,
    text,
)
from pyrovae.data.image_sets import SETS, Place
from pyrovae.data.reading import Contents, Reading

__all__ = ["HUB", "SUFFIXES", "absolute", "is_name", "read"]

SUFFIXES: Final[Mapping[str, Callable[[Path, Reading], Contents]]] = {
    ".npy": array_files.read_npy,
    ".npz": array_files.read_npz,
    ".pt": array_files.read_pt,
    ".h5ad": cells.read_h5ad,
    ".h5": factor_files.read_h5,
    ".ts": series.read_ts,
    **dict.fromkeys((".txt", ".jsonl", ".ndjson"), text.read_lines),
    **dict.fromkeys(frames.SUFFIXES, frames.read),
}
"""The reader of each kind of file."""

HUB: Final = "hf:"
"""What the name of a data set of the Hugging Face hub starts with."""


def is_name(what: str) -> bool:
    """Return whether a data set is given by a name, not by a path.

    Example:
        >>> is_name("mnist"), is_name("hf:ylecun/mnist"), is_name("./mnist"), is_name("a.npy")
        (True, True, False, False)
    """
    return what in SETS or what.startswith(HUB)


def absolute(what: str) -> str:
    """Return a name as it is, and a path as an absolute one.

    Raises:
        ValueError: if there is no such name or path.
    """
    if is_name(what):
        return what
    path = Path(what).expanduser()
    if path.exists():
        return str(path.resolve())
    if len(path.parts) > 1 or path.suffix:
        raise ValueError(f"no data at {path}: it does not exist")
    near = difflib.get_close_matches(what.lower(), SETS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"unknown data set {what!r}: {hint}there are {', '.join(SETS)}, {HUB}NAME, and paths of "
        f"files ({', '.join(SUFFIXES)}) or folders"
    )


def read(what: str, place: Place, reading: Reading) -> Contents:
    """Read a data set by its name or path.

    Raises:
        ValueError: if there is no such name, path or kind of file, and as the reader.
        OSError: if files cannot be read, or downloaded.
    """
    if what in SETS:
        return SETS[what](place, reading)
    if what.startswith(HUB):
        return hugging_face.read_name(what.removeprefix(HUB), reading, download=place.download)
    path = Path(absolute(what))
    if path.is_dir():
        if factor_files.is_cars3d(path):
            return factor_files.read_cars3d(path, reading)
        on_disk = hugging_face.is_on_disk(path)
        return (hugging_face.read_on_disk if on_disk else image_folders.read_folder)(path, reading)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} is no file of data that can be read: {', '.join(SUFFIXES)}, or a folder"
        )
    return SUFFIXES[path.suffix.lower()](path, reading)
