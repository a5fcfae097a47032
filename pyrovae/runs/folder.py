"""Who may write into a folder: one process at a time, and nobody among a stranger's files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

try:
    import fcntl
except ImportError:  # Windows, where a folder is not held
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".lock"
_RUNS: Final = ("config.json", "model.safetensors")


def refuse(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a new run would damage.

    Raises:
        ValueError: if it holds a run that is not to be overwritten, or files that are no run's.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: a run needs a folder of its own, see --out")
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any((folder / name).exists() for name in _RUNS):
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run already: choose another folder with --out, or --overwrite "
                "it"
            )
        return
    strangers = [name for name in held if name != LOCK and not name.endswith(".part")]
    if strangers:
        raise ValueError(
            f"{folder} holds files that are no run's, such as {sorted(strangers)[0]}: choose an "
            "empty folder, or a new one, with --out"
        )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the system lets go of it when the process ends, however it does.

    Raises:
        ValueError: if another process holds it.
        OSError: if the folder cannot be made or written.
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
                    folder.rmdir()  # which fails, rightly, where something was written


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
    """Remove what processes that were killed left half-written beside a run's files."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
