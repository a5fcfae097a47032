"""Read the tables of an experiment: the parts of the VAE, the data and the training.

The tables are merged from an earlier run, a TOML file and options; later ones take precedence.
Values are numbers, strings, lists and tables. Names of parts are looked up when the VAE is built
(see `build`), and nothing else can be named.
"""

from __future__ import annotations

import math
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from pyrovae.cli.names import MODULES, unknown
from pyrovae.train import learning_rates, schedules

__all__ = [
    "SWEEP",
    "TABLES",
    "Data",
    "Training",
    "layered",
    "read",
    "seconds",
    "read_value",
    "set_option",
    "settings",
    "split",
]

Tables = dict[str, Any]

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table [data]: a name or path, and the options of `data.load`."""

    name: str = "digits"
    root: str | None = None
    binarization: Literal["dynamic", "static", "none"] | None = None
    key: str | list[str] | None = None
    labels: str | None = None
    covariates: str | list[str] | dict[str, Any] | None = None
    split: str | None = None
    fractions: tuple[float, float, float] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    shape: tuple[int, int, int] | None = None
    channels: Literal["first", "last"] | None = None
    size: int | tuple[int, int] | None = None
    levels: int | None = None
    limit: int | None = None
    table: bool | None = None
    columns: dict[str, Any] | None = None
    vocabulary: dict[str, Any] | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `data.load` that are given."""
        values = {name: getattr(self, name) for name in self.__struct_fields__[3:]}
        return {name: value for name, value in values.items() if value is not None}


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table [training]."""

    epochs: _Count = 20
    batch_size: _Count = 100
    lr: str | _Positive = 1e-3
    lr_per: Literal["step", "epoch"] = "step"
    clip_norm: _Positive | None = None
    accumulate: _Count = 1
    ema: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    max_steps: _Count | None = None
    max_time: str | _Positive | None = None
    log: list[Literal["csv", "tensorboard", "figure"]] = []
    log_every: _Count = 50
    log_pictures: _Count | None = None
    patience: _Count | None = None
    kl_weight: str | float = "1"
    free_bits: _Positive | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    compile: bool | None = None
    precision: Literal["bf16"] | None = None


SETTINGS: Final[Mapping[str, Any]] = {"data": Data, "training": Training}
TABLES: Final = (*MODULES, "optimizer", *SETTINGS)

SWEEP: Final = "sweep"
"""The table of a file that `pyrovae sweep` reads (see `sweep_table`)."""

DEFAULTS: Final[Tables] = {
    "prior": {"name": "StandardNormal", "latents": 50},
    "likelihood": {},
    "guide": {},
    "net": {"name": "MLP", "hidden": [200, 200], "activation": "Tanh"},
    "objective": {"name": "ELBO"},
}
"""The default tables. The default guide depends on the prior, the likelihood on the data."""

KEPT: Final = {"prior": "latents", "net": "hidden"}
"""The entry of a table that is kept if a later layer names another part."""


def read(path: Path) -> Tables:
    """Read the tables of a TOML file; [sweep] is returned as it is.

    Raises:
        ValueError: if the file is missing or not TOML, or has an unknown table.
        OSError: if the file cannot be read.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(
            f"no experiment at {path}: give a TOML file with tables such as [prior]"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    sweep = {SWEEP: tables.pop(SWEEP)} if SWEEP in tables else {}
    try:
        return checked(tables) | sweep
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def checked(tables: Mapping[str, Any]) -> Tables:
    """Validate the names of tables, and replace the name of a part by a table.

    Raises:
        ValueError: naming an unknown table.
    """
    found: Tables = {}
    for table, entries in tables.items():
        if table not in TABLES:
            raise ValueError(unknown("table", table, TABLES))
        if isinstance(entries, list):
            raise ValueError(f"{table} is one table; got a list of them: write [{table}]")
        found[table] = named(entries)
    return found


def named(entry: Any) -> Tables:
    """Return the table of a part that is given by a table or by its name.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> named("VampPrior")
        {'name': 'VampPrior'}
    """
    if isinstance(entry, str):
        return {"name": entry}
    if not isinstance(entry, dict | None):
        raise ValueError(f"a part is a name or a table; got {entry!r}")
    return entry or {}


def split(words: Iterable[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Split a command line into its plain words and its dotted options.

    The value of an option is parsed as TOML if possible, and is a string otherwise.

    Raises:
        ValueError: if a dotted option has no value or an unknown table.

    Example:
        >>> split(["train", "--prior.components", "5", "--epochs", "3"])
        (['train', '--epochs', '3'], [('prior.components', 5)])
    """
    rest: list[str] = []
    options: list[tuple[str, Any]] = []
    words = iter(words)
    for word in words:
        option, equals, value = word.partition("=")
        if not option.startswith("--") or "." not in option:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "--")
        if value.startswith("--"):
            raise ValueError(f"{option} takes a value, such as {option} 3")
        name = option[2:].replace("-", "_")
        table = name.partition(".")[0]
        if table not in TABLES:
            raise ValueError(f"{option}: {unknown('table', table, TABLES)}")
        options.append((name, read_value(value)))
    return rest, options


def set_option(tables: Tables, option: str, value: Any) -> None:
    """Set one entry of nested tables. A string in place of a table is the name of a part.

    Example:
        >>> tables = {}
        >>> set_option(tables, "prior", "VampPrior")
        >>> set_option(tables, "prior.components", 500)
        >>> tables
        {'prior': {'name': 'VampPrior', 'components': 500}}
    """
    *path, last = option.split(".")
    inner = tables
    for key in path:
        inner[key] = named(inner.get(key))
        inner = inner[key]
    if isinstance(value, str) and (not path or isinstance(inner.get(last), dict)):
        inner[last] = {**named(inner.get(last)), "name": value}
    else:
        inner[last] = value


def read_value(text: str) -> Any:
    """Read the value of an option: TOML if it is, else a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def layered(layers: Sequence[Mapping[str, Any]]) -> Tables:
    """Merge experiments into the defaults; later ones take precedence.

    An entry replaces the earlier one. A table that names another part replaces the whole earlier
    table, except for the number of latents and the hidden widths.

    Example:
        >>> found = layered([{"net": {"hidden": [8]}}, {"net": {"name": "GatedMLP"}}])
        >>> found["net"]
        {'hidden': [8], 'name': 'GatedMLP'}
    """
    tables: Tables = {table: dict(entries) for table, entries in DEFAULTS.items()}
    for layer in layers:
        for table, entries in layer.items():
            tables[table] = _over(tables.get(table, {}), entries, KEPT.get(table))
    return tables


def _over(below: Mapping[str, Any], above: Mapping[str, Any], kept: str | None = None) -> Tables:
    if "name" in above and below.get("name", above["name"]) != above["name"]:
        below = {key: value for key, value in below.items() if key == kept}
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        if isinstance(value, dict) and isinstance(old, dict | str):
            value = _over(named(old), value)
        found[key] = value
    return found


def settings(tables: Mapping[str, Any], table: str) -> Any:
    """Return the table [data] or [training] as an object, with validated entries.

    Raises:
        ValueError: naming the entry that is unknown or has the wrong type.

    Example:
        >>> settings({"training": {"epochs": 3}}, "training").epochs
        3
        >>> settings({"training": {"epoch": 3}}, "training")
        Traceback (most recent call last):
        ...
        ValueError: no entry 'epoch' in [training]: did you mean epochs? There are epochs, ...
    """
    kind, entries = SETTINGS[table], tables.get(table, {})
    for key, value in entries.items():
        if key not in kind.__struct_fields__:
            said = unknown("entry", key, kind.__struct_fields__)
            from pyrovae.data.reading import ELSEWHERE  # which imports torch

            if kind is Data and key in ELSEWHERE:
                said = f"no entry {key!r}: the {key} of sprites is --data.{ELSEWHERE[key]}"
            raise ValueError(said.replace(f"{key!r}", f"{key!r} in [{table}]", 1))
        try:
            msgspec.convert({key: value}, kind)
        except msgspec.ValidationError as error:
            what = str(error).partition(" - at")[0]
            raise ValueError(
                f"--{table}.{key}: {what[0].lower()}{what[1:]}; got {value!r}"
            ) from None
    for key, read in READ.items() if kind is Training else ():
        if entries.get(key) is not None:
            read(str(entries[key]))
    return msgspec.convert(entries, kind)


def seconds(time: str | float) -> float:
    """Return the seconds of a time, such as 90, "90", "30m" or "1d 2h 30m".

    Raises:
        ValueError: for any other text, or no time at all.

    Example:
        >>> seconds("1h30m")
        5400.0
    """
    text = str(time)
    try:
        found = float(text)
    except ValueError:
        parts = re.fullmatch(r"(?:(\d+)d)? ?(?:(\d+)h)? ?(?:(\d+)m)? ?(?:(\d+)s)?", text)
        numbers = [int(part or 0) for part in parts.groups()] if parts else [0]
        found = sum(
            number * size for number, size in zip(numbers, (86400, 3600, 60, 1), strict=False)
        )
    if not 0 < found < math.inf:
        raise ValueError(
            f'a time is a number of seconds, or such as "2h" or "1h30m"; got {text!r}'
        )
    return float(found)


READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "kl_weight": schedules.parse,
    "lr": lambda text: learning_rates.parse(text, steps=10**9),
    "max_time": seconds,
}
"""The functions that read, and so check, the text of entries of [training]."""
