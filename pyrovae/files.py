"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there.

    Raises:
        OSError: if it cannot be written; a file that was there before stays as it was.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together beside their places, then move all of them there.

    Raises:
        OSError: if one cannot be written; the files that were there before stay as they were.
    """
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            beside[path].replace(path)
    except OSError as error:
        kept = "the file that was there is kept" if path.exists() else "no file was there before"
        raise OSError(error.errno, f"cannot write {path} ({error.strerror}); {kept}") from error
    finally:
        for part in beside.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def tensors_as_bytes(
    tensors: Mapping[str, Tensor], beside: Mapping[str, str] | None = None
) -> bytes:
    """Return tensors as a safetensors file holds them, with words beside."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(plain, None if beside is None else dict(beside))
    return content


def json_as_bytes(value: Any) -> bytes:
    """Return a value as a JSON file holds it, for people to read too."""
    return (json.dumps(value, indent=2) + "\n").encode()
