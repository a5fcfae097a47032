"""What other libraries say in the middle of ours, and nobody can use."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def without_cuda_notice() -> Iterator[None]:
    """Leave out, for the block, that a build of torch for GPUs has found none.

    It says so as it first compiles for a CPU, in the middle of a training.
    """
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.addFilter(_is_of_use)
    try:
        yield
    finally:
        logger.removeFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No CUDA runtime is found")
