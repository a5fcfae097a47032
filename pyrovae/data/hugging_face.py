"""Read Hugging Face data sets, from a folder of `save_to_disk` or by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data.frames import numeric
from pyrovae.data.image_folders import stacked
from pyrovae.data.reading import Contents, NoColumn, Reading, extra
from pyrovae.data.splits import SPLITS

__all__ = ["is_on_disk", "read_name", "read_on_disk"]


def is_on_disk(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def read_on_disk(folder: Path, reading: Reading) -> Contents:
    """Read a data set, or a dictionary of splits, that `save_to_disk` wrote.

    Raises:
        ValueError: if datasets is not installed, and as `read_name`.
    """
    return _read(extra("datasets", "hf").load_from_disk(str(folder)), reading, str(folder))


def read_name(name: str, reading: Reading, *, download: bool) -> Contents:
    """Read a data set of the hub, from the cache of `datasets` or downloaded.

    Raises:
        ValueError: if datasets is not installed, the columns for x cannot be told, or a split is
            unknown.
        OSError: if the data set cannot be had.
    """
    datasets = extra("datasets", "hf")
    try:
        there = datasets.DownloadConfig(local_files_only=not download)
        found = datasets.load_dataset(name, download_config=there)
    except (OSError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise OSError(f"cannot load the Hugging Face data set {name!r}: {said}") from error
    return _read(found, reading, f"hf:{name}")


def _read(found: Any, reading: Reading, where: str) -> Contents:
    datasets = extra("datasets", "hf")
    named = isinstance(found, datasets.DatasetDict)
    parts: dict[str, Any] = dict(found) if named else {"train": found}
    unknown = [name for name in parts if name.lower() not in SPLITS]
    if unknown:
        raise ValueError(
            f"{where} has the split {unknown[0]!r}: rename it to train, validation or test"
        )
    splits = None
    if len(parts) > 1:
        names = [np.full(len(part), SPLITS[name.lower()]) for name, part in parts.items()]
        splits = np.concatenate(names)
    whole = datasets.concatenate_datasets(list(parts.values()))
    return _columns(whole, reading, where, splits)


def _columns(whole: Any, reading: Reading, where: str, splits: Any) -> Contents:
    datasets = extra("datasets", "hf")
    kinds = whole.features
    images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    key = reading.key or (images[0] if len(images) == 1 else None)
    if isinstance(key, str) and key not in kinds:
        raise ValueError(f"{where} has no column {key!r}: there are {', '.join(kinds)}")
    named = kinds.get(reading.labels or (classes[0] if classes else ""))
    known = tuple(named.names) if isinstance(named, datasets.ClassLabel) else ()
    labels = None
    if reading.labels is None and len(classes) == 1 and classes[0] not in reading.asked():
        labels = np.asarray(whole[classes[0]])
        whole = whole.remove_columns(classes)
    if key in images:
        said = [f"image {number} of {where}" for number in range(len(whole))]
        x = stacked((row[key] for row in whole.select_columns([key])), reading, names=said)
        found = Contents(x, beside=_beside(whole, reading, where), images=True)
        return replace(found, labels=labels, splits=splits, classes=known)
    if isinstance(key, str) and not isinstance(kinds[key], datasets.Value):
        x = _stacked(whole[key], f"the column {key!r} of {where}")
        found = Contents(x, beside=_beside(whole, reading, where))
        return replace(found, labels=labels, splits=splits, classes=known)
    table = whole.with_format("arrow")[:]
    frame = extra("narwhals", "frames").from_native(table, eager_only=True)
    return replace(numeric(frame, reading, where), labels=labels, splits=splits, classes=known)


def _stacked(values: Iterable[Any], where: str) -> Any:
    """Return the values of a column of lists as one array."""
    arrays = [np.asarray(value) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"{where} has values of the shapes {shapes[0]} and {shapes[1]}, and the data are of "
            "one shape: pad them, pyrovae.data.pad, and save them with their mask as .npz"
        )
    return np.stack(arrays)


def _beside(whole: Any, reading: Reading, where: str) -> dict[str, Any]:
    for name in reading.asked():
        if name not in whole.column_names:
            raise NoColumn(
                name, f"{where} has no column {name!r}: {', '.join(whole.column_names)}"
            )
    return {name: np.asarray(whole[name]) for name in reading.asked()}
