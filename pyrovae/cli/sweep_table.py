"""Read the table [sweep] of an experiment: which entries vary, and the cells that this makes.

    [sweep]
    "prior.latents" = [2, 5, 10]
    "training.lr" = [1e-3, 3e-4]

is a grid of six cells. With `trials = 20`, Optuna proposes twenty cells from such lists and from
ranges, `{low = 1e-4, high = 1e-2, log = true}`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec

from pyrovae.cli import experiment
from pyrovae.cli.experiment import SWEEP, TABLES, Tables
from pyrovae.cli.names import unknown

__all__ = ["Cell", "Range", "Sweep", "read"]

LONGEST: Final = 120
"""The longest name of a cell, in characters; a longer one ends in a hash."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers from `low` to `high`, whole if both are."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


@final
@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        entries: the values of the entries that vary, by their dotted names.
    """

    name: str
    entries: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """The options of `pyrovae train` that set the entries.

        Example:
            >>> Cell("", {"objective": {"name": "IWAE", "particles": 5}}).words
            ['--objective.name', 'IWAE', '--objective.particles', '5']
        """
        return [
            word
            for key, value in self.entries.items()
            for entry, text in _options(key, value)
            for word in (f"--{entry}", text)
        ]

    @property
    def tables(self) -> Tables:
        """The entries as tables of an experiment."""
        tables: Tables = {}
        for key, value in self.entries.items():
            for entry, text in _options(key, value):
                experiment.set_option(tables, entry, experiment.read_value(text))
        return tables


@final
@dataclass(frozen=True)
class Sweep:
    """The table [sweep].

    Attributes:
        axes: the values of each entry that varies, a list or a range, by its dotted name.
        trials: the number of cells that Optuna proposes; None is the grid of all values.
        seed: of the proposals.
    """

    axes: dict[str, list[Any] | Range]
    trials: int | None = None
    seed: int = 0

    def unset(self, tables: Tables) -> list[str]:
        """Return the entries that vary and that an experiment does not set."""
        return [key for key in self.axes if not _is_set(tables, key.split("."))]

    def grid(self) -> list[Cell]:
        """Return the cells of the grid, the last entry varying fastest.

        Example:
            >>> [cell.name for cell in Sweep({"prior.latents": [2, 5], "net": ["MLP"]}).grid()]
            ['latents=2,net=MLP', 'latents=5,net=MLP']
        """
        lists = [values for values in self.axes.values() if isinstance(values, list)]
        points = itertools.product(*lists)
        return [self.cell(dict(zip(self.axes, point, strict=True))) for point in points]

    def cell(self, entries: dict[str, Any], number: int | None = None) -> Cell:
        """Return the cell of some values, with its number if Optuna proposed it."""
        lasts = [key.rpartition(".")[2] for key in entries]
        short = [
            last if lasts.count(last) == 1 else key
            for key, last in zip(entries, lasts, strict=True)
        ]
        said = [f"{name}={_said(v)}" for name, v in zip(short, entries.values(), strict=True)]
        name = ",".join([*([] if number is None else [f"{number:03d}"]), *said])
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return Cell(name, entries)


def read(path: Path) -> tuple[Tables, Sweep]:
    """Read an experiment and its table [sweep].

    Raises:
        ValueError: if the file or the table is invalid, or there is none.
        OSError: if the file cannot be read.
    """
    tables = experiment.read(path)
    if SWEEP not in tables:
        raise ValueError(
            f'{path} has no table [sweep]: add one with entries such as "prior.latents" = [2, 5]'
        )
    try:
        return tables, _sweep(tables.pop(SWEEP))
    except ValueError as error:
        raise ValueError(f"{path}, [sweep]: {error}") from error


def _sweep(table: Any) -> Sweep:
    if not isinstance(table, dict):
        raise ValueError(f"it is a table of lists; got {table!r}")
    given = {key: table[key] for key in ("trials", "seed") if key in table}
    axes = dict(_axes({key: value for key, value in table.items() if key not in given}))
    for key, value in given.items():
        least = 1 if key == "trials" else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{key} is a whole number from {least} on; got {value!r}")
    if not axes:
        raise ValueError('it has no entries that vary, such as "prior.latents" = [2, 5]')
    for key, values in axes.items():
        _check(key, values, trials="trials" in given)
    sweep = Sweep(axes, **given)
    if sweep.trials is None:
        cells = sweep.grid()
        names = [cell.name for cell in cells]
        twice = next((cell for cell in cells if names.count(cell.name) > 1), None)
        if twice is not None:
            raise ValueError(f"two of its cells are {twice.name}: list each value once")
    return sweep


def _axes(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries that vary; `prior.latents = [2, 5]` without quotes is a nested table."""
    for key, value in table.items():
        if isinstance(value, dict) and not value.keys() & {"low", "high"}:
            yield from _axes(value, f"{above}{key}.")
        else:
            yield above + key, _range(above + key, value) if isinstance(value, dict) else value


def _is_set(table: Any, path: list[str]) -> bool:
    if not path:
        return True
    return isinstance(table, dict) and path[0] in table and _is_set(table[path[0]], path[1:])


def _range(key: str, value: dict[str, Any]) -> Range:
    try:
        found = msgspec.convert(value, Range)
    except msgspec.ValidationError as error:
        raise ValueError(f"{key} is a range {{low = 1, high = 9}}: {error}") from None
    numbers = (found.low, found.high)
    if not (all(map(math.isfinite, numbers)) and found.low < found.high):
        raise ValueError(f"{key} is a range with low < high; got {numbers[0]} and {numbers[1]}")
    if found.log and not (found.low > 0 and found.step is None):
        raise ValueError(f"{key} is a range with log = true, which needs low > 0 and no step")
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise ValueError(f"{key} is a range whose step is above 0 and at most high - low")
    return found


def _check(key: str, values: Any, *, trials: bool) -> None:
    table, dot, _ = key.partition(".")
    if table not in TABLES:
        raise ValueError(unknown("table", table, TABLES))
    if isinstance(values, Range):
        if not trials:
            raise ValueError(f"{key} is a range: add trials = 20, or list its values")
        return
    if not isinstance(values, list) or not values:
        raise ValueError(f"{key} is a list of values; got {values!r}: write [{_text(values)}]")
    bad = [value for value in values if not dot and not isinstance(value, str | dict)]
    if bad:
        raise ValueError(f"{key} is a list of names or tables of parts; got {bad[0]!r}")


def _options(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the dotted options of a value; a table has one for each of its entries."""
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _options(f"{key}.{inner}", each)
    else:
        yield key if "." in key else f"{key}.name", _text(value)


def _text(value: Any) -> str:
    """Write a value as an option takes it: TOML, or plain where that is read as the same string.

    Example:
        >>> _text("linear:0:1:10"), _text("5"), _text([200, 100]), _text(True), _text([{"a": 1}])
        ('linear:0:1:10', '"5"', '[200, 100]', 'true', '[{"a" = 1}]')
    """
    if isinstance(value, str):
        plain = experiment.read_value(value) == value and value[:1] not in ("", "-")
        return value if plain else json.dumps(value, ensure_ascii=False)
    return _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        inner = (f"{json.dumps(k, ensure_ascii=False)} = {_toml(v)}" for k, v in value.items())
        return f"{{{', '.join(inner)}}}"
    return str(value)


def _said(value: Any) -> str:
    """Write a value for the name of a folder."""
    if isinstance(value, dict):
        value = "-".join(_said(v) if k == "name" else f"{k}-{_said(v)}" for k, v in value.items())
    elif isinstance(value, list):
        value = "-".join(map(_said, value))
    elif isinstance(value, float):
        return f"{value:.6g}"
    elif isinstance(value, int):
        return str(value)  # a sign is kept, which tells -1 from 1
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", str(value)).strip("-") or "none"
