"""Notice a program that reads the clock or a file, which no guard of Python's values sees."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from pyrovae.graphs.names import of_library

__all__ = ["OUTSIDE", "detect_outside"]

_SOURCES: Final = {
    "the clock": (
        *(time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter),
        *(time.perf_counter_ns, time.process_time, time.localtime, time.gmtime, time.strftime),
        *(datetime.datetime.now, datetime.datetime.utcnow, datetime.datetime.today),
        datetime.date.today,
    ),
    "a file": (open, os.open, os.stat, os.listdir, os.scandir, input),
    "the system's random numbers": (os.urandom,),
}
OUTSIDE: Final = frozenset(_SOURCES)
"""What a program may read that no value of Python's holds."""

_NAMES: Final = {function: name for name, functions in _SOURCES.items() for function in functions}
_STANDARD: Final = frozenset(sys.stdlib_module_names)

_IGNORED: Final = frozenset({"importlib", "linecache", "tokenize", "warnings", "logging"})
"""Modules of the standard library that read files or the clock on their own account."""

_READERS: Final = ("torch.serialization", "numpy.lib", "pandas", "polars", "pyarrow")
"""Modules of libraries that read files for their caller."""

_INSTALLED: Final = re.compile(r"[/\\](site|dist)-packages[/\\]")
"""Where installed packages lie, some of which read the clock whenever garbage is collected."""


@contextlib.contextmanager
def detect_outside() -> Iterator[list[str]]:
    """Yield a list that is filled once a user's code in the block reads the clock or a file.

    Under a profiler nothing is noticed, since Python has one at a time.
    """
    said: list[str] = []

    def profile(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and not said:
            what = _named(called)
            if what and _is_users(frame):
                said.append(what)

    if sys.getprofile() is not None:
        yield said
        return
    sys.setprofile(profile)
    try:
        yield said
    finally:
        sys.setprofile(None)


def _named(called: Any) -> str:
    """Return what a built-in function reads; "" if it reads nothing outside Python."""
    try:
        return _NAMES.get(called, "")
    except Exception:  # A method of an object that has no hash.
        return ""


def _is_users(frame: FrameType | None) -> bool:
    """Tell whether a user's code calls, directly or by a library that reads files for it.

    A user's code is that of no installed package.
    """
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package in _IGNORED:
            return False
        if package not in _STANDARD and not module.startswith(_READERS):
            return not (of_library(module) or _INSTALLED.search(frame.f_code.co_filename))
        frame = frame.f_back
    return False
