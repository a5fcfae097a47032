"""Validate the JSON files of a run against schemas.

A file may be damaged, edited or from someone else. Errors name the invalid entry, such as
`$.data.shape`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

__all__ = ["LARGEST", "check_sizes", "config", "data", "epoch", "factors", "kept", "report"]

LARGEST: Final = 10_000
"""The largest size that a part may always have, even if the model's file is smaller."""

_Number = float | None
_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Content(msgspec.Struct):
    splits: dict[str, str] = {}
    sketch: str = ""
    rows: _Size = 0
    held_out: _Size = 0
    repeated: _Size = 0


class _Data(msgspec.Struct):
    name: str | None = None
    root: str | None = None
    binarization: str | None = None
    shape: tuple[_Size, ...] | None = None
    reading: dict[str, Any] | None = None
    content: _Content | None = None
    columns: list[str] | None = None


class _Recipe(msgspec.Struct):
    path: str
    sha256: str


class _Config(msgspec.Struct):
    vae: dict[str, Any] | None
    run: str | None = None
    created: datetime.datetime | msgspec.UnsetType = msgspec.UNSET
    command: list[str] | None = None
    versions: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    data: Any = None
    experiment: dict[str, dict[str, Any]] | None = None
    recipe: _Recipe | None = None
    seed: int | None = None
    demo: bool | None = None


class _Epoch(msgspec.Struct):
    epoch: int


class _Quantity(msgspec.Struct):
    mean: _Number
    error_over_data: _Number
    error_over_particles: _Number
    infinite: dict[str, Literal["inf", "-inf"]] = {}


class _Finding(msgspec.Struct):
    title: str
    verdict: list[str]
    partial: bool
    quantities: dict[str, _Quantity]
    subject: str | None = None
    remarks: list[str] = []
    findings: dict[str, _Finding] = {}


class _Report(_Finding, kw_only=True):
    data: int | None = None
    particles: int
    seed: int | None = None
    run: str | None = None
    parameters: str | None = None
    data_set: str | None = None
    root: str | None = None
    binarization: str | None = None
    shape: tuple[_Size, ...] | None = None
    reading: dict[str, Any] | None = None
    split: str | None = None
    limit: int | None = None
    command: list[str] | None = None
    created: datetime.datetime | msgspec.UnsetType = msgspec.UNSET
    versions: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    point_masses: list[str] = []
    bounds: dict[str, int]
    kl_per_dimension: dict[str, list[_Number]] = {}
    tensors: str | None = None
    of_whole_numbers: bool | None = None
    untrusted: int | None = None
    largest_pareto_k: _Number = None


class _Assignment(_Finding, kw_only=True):
    units: list[str]
    factors: list[str]
    information: list[list[_Number]]
    error: list[list[_Number]]
    entropy: list[float]
    spread: list[str] = []
    together: list[tuple[str, str, float]] = []
    held: dict[str, str] = {}
    data: _Size
    bins: _Size


class _Factors(msgspec.Struct):
    assignment: _Assignment
    scores: _Finding | None = None
    run: str | None = None
    parameters: str | None = None
    data_set: str | None = None
    split: str | None = None
    command: list[str] | None = None
    created: datetime.datetime | msgspec.UnsetType = msgspec.UNSET
    versions: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _Kept(msgspec.Struct):
    config: dict[str, Any]
    metrics: str


def config(read: dict[str, Any]) -> dict[str, Any]:
    """Validate the content of `config.json`, and return it.

    Raises:
        ValueError: naming the invalid entry.
    """
    return _fitting(read, _Config)


def data(read: Any) -> dict[str, Any]:
    """Validate the entry "data" of a configuration, and return it; an empty dict for None."""
    return {} if read is None else _fitting(read, _Data)


def epoch(read: Any) -> dict[str, Any]:
    """Validate a line of `metrics.jsonl`, numbers by name or None, and return it."""
    return _fitting(_fitting(read, _Epoch), dict[str, _Number])


def report(read: Any) -> dict[str, Any]:
    """Validate the content of `evaluation.json`, and return it."""
    return _fitting(read, _Report)


def factors(read: Any) -> dict[str, Any]:
    """Validate the content of `factors.json`, and return it."""
    return _fitting(read, _Factors)


def kept(read: Any) -> dict[str, Any]:
    """Validate the metadata of `model.safetensors`, and return it."""
    return _fitting(read, _Kept)


def check_sizes(record: Any, numbers: int) -> None:
    """Check that a part's record has no size above the number of bytes of the model's file.

    A damaged or malicious record could otherwise allocate a huge network. Sizes up to `LARGEST`
    are always allowed.

    Args:
        record: the record of a part.
        numbers: the number of bytes of the model's file.

    Raises:
        ValueError: naming the size.
    """
    most = max(LARGEST, numbers)
    for value in _whole_numbers(record):
        if abs(value) > most:
            short = str(value) if abs(value) < 10**20 else f"a number of {len(str(value))} digits"
            raise ValueError(
                f"it records the size {short}, but the model's file has only {numbers} bytes"
            )


def _whole_numbers(record: Any) -> Iterator[int]:
    if isinstance(record, dict):
        for value in record.values():
            yield from _whole_numbers(value)
    elif isinstance(record, list):
        for value in record:
            yield from _whole_numbers(value)
    elif isinstance(record, int) and not isinstance(record, bool):
        yield record


def _fitting(read: Any, kind: Any) -> Any:
    try:
        msgspec.convert(read, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    return read
