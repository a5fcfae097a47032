"""The grammar that commands of the command line share: types of numbers, and common options.

Nothing here imports torch, so that `pyrovae --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pyrovae import schedules


class Parser(argparse.ArgumentParser):
    """Complain in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and where help is, and exit with 2."""
        self.exit(2, f"pyrovae: error: {message} (see `{self.prog} --help`)\n")


def layout(prog: str) -> argparse.HelpFormatter:
    """Return the layout of every help text."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=96)


def at_least(lowest: int) -> Callable[[str], int]:
    """Return the type of a whole number that is not below the lowest.

    Example:
        >>> at_least(1)("20")
        20
    """

    def number(text: str) -> int:
        with contextlib.suppress(ValueError):
            if lowest <= int(text) < 2**63:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {lowest} or more")

    return number


def positive(text: str) -> float:
    """Read a positive number."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def schedule(text: str) -> str:
    """Return a KL-weight schedule as it was written, if it is one."""
    try:
        schedules.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


COUNT = at_least(1)


def add_command(commands: Any, name: str, texts: tuple[str, str, str]) -> argparse.ArgumentParser:
    """Add a command with its summary, description and examples."""
    summary, description, examples = texts
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=layout,
    )
    parser.set_defaults(command=name)
    parser.add_argument(
        "--traceback", action="store_true", help="print Python's traceback above an error's line"
    )
    return parser


def run_arguments(parser: Any) -> None:
    """Add the folder of a run, and the recipe that makes its programs."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    recipe_option(parser)


def recipe_option(parser: Any) -> None:
    """Add `--recipe`."""
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE.py",
        help="a Python file whose function vae(shape) returns a pyrovae.VAE; shape is "
        "(channels, height, width), x has rows of channels * height * width numbers",
    )


def data_options(
    parser: Any, default: str | None, said: str = "what the run was trained on"
) -> None:
    """Add `--data` and `--root`."""
    parser.add_argument(
        "--data", default=default, metavar="NAME", help=f"digits or mnist ({default or said})"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="the folder of MNIST/raw, for mnist"
    )


def split_option(parser: Any) -> None:
    """Add `--split`."""
    splits = ["test", "validation", "train"]
    parser.add_argument("--split", choices=splits, default="test", help="which data (test)")


def particles_option(parser: Any) -> None:
    """Add `--particles`."""
    parser.add_argument(
        "--particles", type=COUNT, default=1000, metavar="K", help="draws for each datum (1000)"
    )


def seed_option(parser: Any) -> None:
    """Add `--seed`."""
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of everything random (0)"
    )


def compile_option(parser: Any, work: str) -> None:
    """Add `--no-compile`, which leaves some work uncompiled."""
    parser.add_argument(
        "--no-compile",
        dest="compile",
        action="store_const",
        const=False,
        help=f"run the programs as Pyro runs them, always; else {work} is compiled",
    )


def figure_options(parser: Any, number: int) -> None:
    """Add how many images there are, where they go, and the seed."""
    parser.add_argument(
        "-n", dest="number", type=COUNT, default=number, metavar="N", help=f"how many ({number})"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the file to write (in RUN/figures)"
    )
    seed_option(parser)
