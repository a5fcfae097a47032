"""Bring a constant of torch's `log1p` and `expm1` into memory, once per process.

With AVX-512, torch computes these functions by Sleef, whose kernels load the result for -0.0 under
a mask. Until an argument is -0.0, the page of the library that holds it need not be in memory, and
the processor suppresses a page fault for every 16 numbers: 8.4 ns for a number instead of 0.8. Log
densities of bits take one `log1p` for each, so that this is a good part of a step.
"""

from __future__ import annotations

import functools
from typing import Final

import torch

__all__ = ["load_rare_constants"]

LANES: Final = 64
"""As many numbers as the widest registers hold, and more."""


@functools.cache
def load_rare_constants() -> None:
    """Compute `log1p` and `expm1` of -0.0, whose constant is read then and stays in memory."""
    zeros = torch.full((LANES,), -0.0, dtype=torch.float32, device="cpu")
    torch.log1p(zeros)
    torch.expm1(zeros)
