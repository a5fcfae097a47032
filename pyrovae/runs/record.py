"""Read `config.json`, and rebuild the parts of a VAE from it.

The file records each part by its class and constructor arguments (see `pyrovae.parts`). Nothing
is unpickled or imported.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyrovae
from pyrovae import guides, likelihoods, nets, priors
from pyrovae.files import schemas
from pyrovae.parts import build
from pyrovae.runs.sources import Source

__all__ = ["FORMAT", "PARTS", "check_details", "provenance", "read_config", "rebuild"]

FORMAT: Final = 1
"""The version of the folder's format, which `config.json` records."""

OWN: Final = ("format", "run", "vae")
"""The entries of `config.json` that only the library writes."""

PARTS: Final = (guides, likelihoods, nets, priors)
"""The modules that define the library's parts. Importing them registers the parts by name."""


def provenance() -> dict[str, Any]:
    """Return the time, the command and the versions, to be recorded in a file."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl")}
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "pyrovae": pyrovae.__version__,
            "python": platform.python_version(),
            **packages,
        },
    }


def check_details(details: Mapping[str, Any]) -> None:
    """Check that a run can be read again that has further entries in its `config.json`.

    Args:
        details: the entries by name.

    Raises:
        ValueError: naming the entry that cannot be: one of the library's own, no JSON value, or
            not of the type that the library reads under this name.

    Example:
        >>> check_details({"seed": 0, "note": ["a", "b"]})
        >>> check_details({"seed": "zero"})
        Traceback (most recent call last):
        ValueError: a run cannot record seed='zero', as pyrovae reads this entry itself: ...
    """
    for name, value in details.items():
        if name in OWN:
            raise ValueError(
                f"a run cannot record {_shown(name, value)}, as it writes this entry itself: "
                "choose another name"
            )
        try:
            entry = json.loads(json.dumps(value))
            schemas.config({"vae": None, name: entry})
            if name == "data":
                Source.read(entry)
        except TypeError as error:
            raise ValueError(
                f"a run cannot record {_shown(name, value)}: {error}; give a JSON value"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"a run cannot record {_shown(name, value)}, as pyrovae reads this entry itself: "
                f"{error}; choose another name"
            ) from error


def _shown(name: str, value: Any) -> str:
    text = repr(value)
    return f"{name}={text if len(text) < 80 else f'{type(value).__name__}(...)'}"


def read_config(folder: Path) -> dict[str, Any]:
    """Read and validate the `config.json` of a run's folder.

    Raises:
        ValueError: if the folder or the file is missing, or if the file is incomplete or has
            another format.
    """
    if not folder.is_dir():
        raise ValueError(
            f"no run's folder at {folder}: create one with `pyrovae train` or pyrovae.save"
        )
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no run, or half-written: it has no config.json") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is half-written or damaged: {error}") from error
    met = config.get("format") if isinstance(config, dict) else None
    if met != FORMAT:
        raise ValueError(
            f"{path} has format {met!r}, but pyrovae {pyrovae.__version__} reads format {FORMAT}: "
            "load it with the version that wrote it (see its 'versions')"
        )
    parts = config.get("vae", {})
    missing = {"prior", "likelihood", "guide"} - set(parts if isinstance(parts, dict) else {})
    if missing and parts is not None:
        raise ValueError(f"{path} is damaged: it records no {' and no '.join(sorted(missing))}")
    try:
        return schemas.config(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def rebuild(
    folder: Path, recorded: dict[str, Any], given: dict[str, Any], size: int
) -> dict[str, Any]:
    """Return the prior, the likelihood and the guide of a run.

    Args:
        folder: the run's folder, for error messages.
        recorded: the records of the three parts.
        given: for each role, a program that replaces the recorded one, or None.
        size: the bytes of the model's file, which bound the sizes that a part can have.

    Raises:
        ValueError: naming the part that cannot be rebuilt.
    """
    shared = _shared(recorded, given)
    return {
        role: _rebuilt(folder, role, recorded, shared, size) if part is None else part
        for role, part in given.items()
    }


def _shared(recorded: dict[str, Any], given: dict[str, Any]) -> dict[int, Any]:
    """Return the given programs by the numbers under which other parts share them."""
    shared = {}
    for role, part in given.items():
        record = recorded[role]
        number = record.get("shared") if isinstance(record, dict) else None
        if part is not None and number is not None:
            shared[number] = part
    return shared


def _rebuilt(
    folder: Path, role: str, recorded: dict[str, Any], shared: dict[int, Any], size: int
) -> Any:
    try:
        schemas.check_sizes(recorded[role], size)
        part = build(recorded[role], shared)
        if not callable(part):
            raise ValueError(f"it is recorded as {part!r}, which is not callable")
        return part
    except Exception as error:  # A damaged record may make any constructor fail in any way.
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot rebuild the {role} of {folder}: {said}: pyrovae.load(folder, {role}=...)"
        ) from error
