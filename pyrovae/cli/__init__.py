"""The command line: train, evaluate, compare and sample VAEs.

An error is one line on stderr, and so is a warning. With `--traceback`, Python's traceback is
printed above an error. The exit codes are:

    1      the loss is not finite, or torch raised an error
    2      the input is invalid
    130    interrupted by Ctrl-C
    141    the reader of the output has closed the pipe, such as `| head`
    143    terminated by SIGTERM; the state of the training is written
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from pyrovae.cli.complaints import BAD_INPUT, INTERRUPTED, NOT_FINITE, READER_GONE, complain

__all__ = ["READER_GONE", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Example:
        >>> main(["evaluate", "no/such/run", "--particles", "10"])  # one line on stderr
        2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        with _warnings_in_one_line():
            code = _answer(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return READER_GONE
    return code


def _answer(argv: list[str]) -> int:
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        met: Exception = error
        code = BAD_INPUT
    except (ArithmeticError, RuntimeError) as error:  # from torch: out of memory, overflow
        met, code = error, NOT_FINITE
    if "--traceback" in argv:
        traceback.print_exception(met)
    return complain(met, code)


def _run(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    from pyrovae.cli import experiment
    from pyrovae.cli.grammar import APP

    help_ = f"(see `pyrovae {argv[0]} --help`)" if argv[:1] and argv[0] in APP else ""
    if not argv:
        commands = ", ".join(name for name in APP if not name.startswith("-"))
        return complain(f"a command is required: {commands} (see `pyrovae --help`)", BAD_INPUT)
    try:
        words, entries = experiment.split(argv) if argv[0] == "train" else (argv, [])
        command, bound, unset = APP.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return complain(f"{error} {help_}", BAD_INPUT)
    also = {"command": ("pyrovae", *argv), "entries": tuple(entries)}
    further = {name: value for name, value in also.items() if name in unset}
    return int(command(*bound.args, **bound.kwargs, **further) or 0)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Write warnings as errors are, without a place in the code."""
    before = warnings.formatwarning

    def formatted(message: Any, category: Any, *place: Any) -> str:
        if category is UserWarning:
            return f"pyrovae: warning: {message}\n"
        return before(message, category, *place)

    warnings.formatwarning = formatted  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = before


def _discard_stdout() -> None:
    """Redirect stdout to the null device, so that Python can flush it at exit without an error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
