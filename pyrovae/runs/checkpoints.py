"""Keep the states of a training in a folder, each in one file that is whole or not there.

A file's name has the number of the step and the SHA-256 of its content, so that a damaged or
truncated file is recognized and the one before it is read. The state is tensors and JSON; nothing
is unpickled.

    checkpoints/000000012000-3f5a0c9d41e7b286.safetensors
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch

from pyrovae.files import tensors_as_bytes, trees, write_atomically

__all__ = ["SCHEMA", "Checkpoints", "Damaged"]

SCHEMA: Final = 2
"""The version of the state's form, which each checkpoint records."""

KEPT: Final = 2
"""The number of the latest checkpoints that are kept."""

_NAME: Final = re.compile(r"(\d{12})-([0-9a-f]{16})\.safetensors")


class Damaged(ValueError):
    """Raised for a checkpoint whose content is not what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run's folder.

    Attributes:
        folder: the run's folder.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(Path(folder))
        ...     for step in (10, 20, 30):
        ...         checkpoints.write(step, {"weight": torch.ones(1) * step}, keep={10})
        ...     [step for step, _ in checkpoints.files()], checkpoints.newest()
        ([10, 20, 30], ({'weight': tensor([30.])}, []))
    """

    folder: Path

    def files(self) -> list[tuple[int, Path]]:
        """Return the checkpoints with their steps, the latest last."""
        found = []
        for path in (self.folder / "checkpoints").glob("*.safetensors"):
            named = _NAME.fullmatch(path.name)
            if named:
                found.append((int(named[1]), path.stat().st_mtime_ns, path))
        return [(step, path) for step, _, path in sorted(found)]

    def write(self, step: int, state: Any, *, keep: Collection[int] = ()) -> None:
        """Write a state, and remove older checkpoints.

        Args:
            step: the number of the step.
            state: a tree, as of `files.trees`.
            keep: the steps of checkpoints that are kept beside the last two.

        Raises:
            ValueError: if the state has a leaf that cannot be written.
            OSError: if the file cannot be written; the checkpoints before are left.
        """
        tensors, rest = trees.split(state)
        said = {"checkpoint": json.dumps({"schema": SCHEMA, "state": rest})}
        content = tensors_as_bytes(tensors, said)
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self.folder / "checkpoints" / f"{step:012d}-{digest}.safetensors"
        write_atomically(path, content)
        others = [(then, other) for then, other in self.files() if other != path]
        for then, other in [*others][: len(others) - (KEPT - 1)]:
            if then not in keep:
                with contextlib.suppress(OSError):
                    other.unlink()

    def clear(self) -> None:
        """Remove every checkpoint, for a new run in the same folder."""
        for _, path in self.files():
            path.unlink()

    def newest(self) -> tuple[Any, list[str]]:
        """Return the state of the latest checkpoint that is whole, and remarks on the others.

        Raises:
            ValueError: if there is no checkpoint, or none that is whole.
        """
        remarks: list[str] = []
        for _, path in reversed(self.files()):
            try:
                return self.read(path), remarks
            except Damaged as error:
                remarks.append(str(error))
        if remarks:
            raise ValueError(f"no checkpoint in {self.folder} is whole: {'; '.join(remarks)}")
        raise ValueError(
            f"{self.folder} has no checkpoint: train with "
            "fit(..., callbacks=[pyrovae.Checkpoint(folder)]) or `pyrovae train`"
        )

    def read(self, path: Path) -> Any:
        """Return the state in a file.

        Raises:
            Damaged: if the file is not what was written.
            ValueError: if another version of the library wrote it.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path} cannot be read ({error.strerror})") from error
        named = _NAME.fullmatch(path.name)
        if named is None or hashlib.sha256(content).hexdigest()[:16] != named[2]:
            raise Damaged(f"{path} is damaged: its content is not that of its name")
        try:
            said = json.loads(_metadata(content)["checkpoint"])
            tensors = safetensors.torch.load(content)
        except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
            raise Damaged(f"{path} is no checkpoint: {error}") from error
        if not isinstance(said, dict) or said.get("schema") != SCHEMA:
            met = said.get("schema") if isinstance(said, dict) else None
            raise ValueError(
                f"{path} has the schema {met!r}, and this version of pyrovae reads {SCHEMA}: "
                "resume with the version that wrote it"
            )
        return trees.joined(tensors, said.get("state"))


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found
