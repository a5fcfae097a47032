"""Show a user the warnings that concern them, at a line of their own."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

__all__ = ["depth_outside", "without_cuda_notice"]


@contextlib.contextmanager
def without_cuda_notice() -> Iterator[None]:
    """Suppress torch's notice that no CUDA runtime is found.

    A build of torch for GPUs logs it on a machine without one, when it first compiles.
    """
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.addFilter(_is_not_cuda_notice)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_cuda_notice)


def _is_not_cuda_notice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No CUDA runtime is found")


def depth_outside(module: str) -> int:
    """Return the stack level, for a warning of the caller, of the first frame outside a module."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__") == module:
        frame, depth = frame.f_back, depth + 1
    return depth
