"""Bring a constant of torch's `log1p` and `expm1` into memory, once per process.

With AVX-512, torch computes these functions by Sleef, whose kernels load the result for -0.0 under
a mask. Until an argument is -0.0, the page of the library that holds it need not be in memory, and
the processor suppresses a page fault for every 16 numbers: 8.5 ns for a number instead of 0.8. Log
densities of bits take one `log1p` for each, so that this is a good part of a step. A process that
is forked begins without the pages of its libraries, and reads the constant anew.
"""

from __future__ import annotations

import functools
import os
from typing import Final

import torch

__all__ = ["load_rare_constants"]

LANES: Final = 64
"""As many numbers as the widest registers hold, and more."""


@functools.cache
def load_rare_constants() -> None:
    """Load the constants, here and in each process that is forked from this one."""
    _load()
    if hasattr(os, "register_at_fork"):  # Windows forks no process
        os.register_at_fork(after_in_child=_load)


def _load() -> None:
    """Compute `log1p` and `expm1` of -0.0, whose constant is read then and stays in memory."""
    zeros = torch.full((LANES,), -0.0, dtype=torch.float32, device="cpu")
    torch.log1p(zeros)
    torch.expm1(zeros)
