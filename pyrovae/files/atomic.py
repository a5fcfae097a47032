"""Write files atomically: a file is complete, or it is not written."""

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

__all__ = ["json_as_bytes", "tensors_as_bytes", "write_atomically", "write_together"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: if the file cannot be written; an existing file is left unchanged.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files to temporary names, then rename them all.

    Raises:
        OSError: if one of them cannot be written; existing files are left unchanged.
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
        kept = "the existing file is kept" if path.exists() else "no file existed before"
        raise OSError(error.errno, f"cannot write {path} ({error.strerror}); {kept}") from error
    finally:
        for part in beside.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def tensors_as_bytes(
    tensors: Mapping[str, Tensor], beside: Mapping[str, str] | None = None
) -> bytes:
    """Return tensors in the safetensors format, with optional text metadata."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(plain, None if beside is None else dict(beside))
    return content


def json_as_bytes(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return (json.dumps(value, indent=2) + "\n").encode()
