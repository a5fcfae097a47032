"""Suppress notices of torch that are of no use to a user of this library."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["without_cuda_notice"]


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
