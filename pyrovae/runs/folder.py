"""Protect a run's folder: one writing process at a time, and no foreign files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

try:
    import fcntl
except ImportError:  # On Windows, folders are not locked.
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "held", "refuse"]

LOCK: Final = ".lock"
"""The name of the lock file in a run's folder."""

_RUNS: Final = ("config.json", "model.safetensors")


def refuse(folder: Path, *, overwrite: bool) -> None:
    """Check that a new run can be written to a folder.

    Args:
        folder: the folder, which need not exist.
        overwrite: whether an existing run may be overwritten.

    Raises:
        ValueError: if it is a file, or contains a run that may not be overwritten, or files that
            do not belong to a run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose a folder with --out")
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any((folder / name).exists() for name in _RUNS):
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run already: choose another folder with --out, or overwrite it "
                "with --overwrite"
            )
        return
    strangers = [name for name in held if name != LOCK and not name.endswith(".part")]
    if strangers:
        raise ValueError(
            f"{folder} holds files that are no run's, such as {sorted(strangers)[0]}: choose an "
            "empty or new folder with --out"
        )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder for writing, and create it if needed.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        ValueError: if another process has the lock.
        OSError: if the folder cannot be created or written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        _lock(file, folder)
        _clear_parts(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                if made:
                    folder.rmdir()  # This fails if something was written, and the folder stays.


def _lock(file: IO[Any], folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"another process trains into {folder}: wait until it ends, or choose another folder "
            "with --out"
        ) from error


def _clear_parts(folder: Path) -> None:
    """Remove temporary files that killed processes left."""
    for where in (folder, folder / "checkpoints", folder / "figures"):
        for part in where.glob(".*.part"):
            with contextlib.suppress(OSError):
                part.unlink()
