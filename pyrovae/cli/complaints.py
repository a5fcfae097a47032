"""Print an error as one line on stderr, and define the exit codes."""

from __future__ import annotations

import sys
from typing import Final

__all__ = [
    "BAD_INPUT",
    "INTERRUPTED",
    "NOT_FINITE",
    "READER_GONE",
    "SIGTERMED",
    "complain",
    "said",
]

NOT_FINITE: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
SIGTERMED: Final = 143
READER_GONE: Final = 141
"""The exit code of a command that wrote to a closed pipe: 128 + SIGPIPE."""


def complain(error: BaseException | str, code: int) -> int:
    """Print an error as one line on stderr, and return the exit code.

    Example:
        >>> complain("interrupted", INTERRUPTED)
        130
    """
    if isinstance(error, BaseException):
        error = said(error)
    print(f"pyrovae: error: {' '.join(error.split())}", file=sys.stderr)
    return code


def said(error: BaseException) -> str:
    """Return an error's message in one line, with options in place of calls if it has both."""
    # This imports torch, which errors of the grammar do not need.
    from pyrovae.weights.sites import one_line

    return one_line(getattr(error, "in_options", error))
