"""The command line: train a VAE, measure it, look at it.

This file holds the grammar; what a command does is in `commands`, imported once the arguments are
read, so that `pyrovae --help` answers without waiting for torch. Whatever is wrong with the input
is one line on stderr and exit code 2, below Python's traceback with `--traceback`; a training
whose loss was not finite exits with 1, an interrupt (Ctrl-C) with 130, and a command whose output
nobody reads any more (`| head`) with 141.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyrovae
from pyrovae.cli import training_arguments
from pyrovae.cli.arguments import (
    COUNT,
    Parser,
    add_command,
    compile_option,
    data_options,
    figure_options,
    layout,
    particles_option,
    run_arguments,
    seed_option,
    split_option,
)

READER_GONE: Final = 141
"""What a shell says of a command that wrote to a pipe without a reader: 128 + SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Example:
        >>> main(["evaluate", "no/such/run", "--particles", "10"])  # one line on stderr
        2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _answer(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()
        return READER_GONE
    return code


def _answer(argv: list[str]) -> int:
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else 2
    arguments.command_line = ["pyrovae", *argv]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("pyrovae: error: interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from pyrovae.cli import commands

    try:
        code: int = getattr(commands, arguments.command)(arguments)
        return code
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        met: Exception = error
        code = 2
    except (ArithmeticError, RuntimeError) as error:  # torch's own: no memory left, an overflow
        met, code = error, 1
    if arguments.traceback:
        traceback.print_exception(met)
    return commands.complain(met, code)


def _let_go_of_stdout() -> None:
    """Write to nowhere what is left, so that Python does not complain of it as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pyrovae",
        description="Train variational autoencoders as pairs of Pyro programs, and measure them\n"
        "with importance-weighted bounds.",
        epilog="start here:\n  pyrovae demo\n\nhelp on one command:\n  pyrovae train --help",
        formatter_class=layout,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"pyrovae {pyrovae.__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    training_arguments.demo(add_command(commands, "demo", training_arguments.DEMO))
    training_arguments.train(add_command(commands, "train", training_arguments.TRAIN))
    _evaluate_grammar(add_command(commands, "evaluate", _EVALUATE))
    _compare_grammar(add_command(commands, "compare", _COMPARE))
    _report_grammar(add_command(commands, "report", _REPORT))
    _sample_grammar(add_command(commands, "sample", _SAMPLE))
    _reconstruct_grammar(add_command(commands, "reconstruct", _RECONSTRUCT))
    return parser


def _evaluate_grammar(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    data_options(parser, default=None)
    split_option(parser)
    parser.add_argument("--limit", type=COUNT, metavar="N", help="the first N data only")
    particles_option(parser)
    parser.add_argument(
        "--ks", type=COUNT, nargs="+", metavar="k", help="the k of IWAE-k (10 100 1000 ... K)"
    )
    _diagnostic_options(parser.add_argument_group("further measurements"))
    compile_option(parser, "a measurement of 2,000,000 particles or more")
    seed_option(parser)


def _diagnostic_options(further: argparse._ArgumentGroup) -> None:
    further.add_argument(
        "--ais",
        type=COUNT,
        metavar="T",
        help="annealed importance sampling over T temperatures: log p(x) from below, and on "
        "simulated data from above",
    )
    further.add_argument(
        "--ais-start",
        choices=["prior", "guide"],
        help="where its chains start; the prior is safe, a good guide needs fewer (prior)",
    )
    further.add_argument(
        "--gaps",
        action="store_true",
        help="what limits the bound: the family of q, or the network that amortises it",
    )
    further.add_argument(
        "--latents",
        action="store_true",
        help="what the latents hold: active units, information, collapse, holes",
    )
    further.add_argument(
        "--diagnose",
        type=COUNT,
        metavar="N",
        help="the data, the first ones, of --ais (64) and of --gaps (100)",
    )


def _compare_grammar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", type=Path, nargs=2, metavar="RUN", help="two runs, each with an evaluation"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the file to write (in the first RUN/figures)"
    )


def _report_grammar(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    data_options(parser, default=None, said="what the run was evaluated on")
    parser.add_argument(
        "--out", type=Path, metavar="HTML", help="the file to write (RUN/report.html)"
    )
    parser.set_defaults(seed=0)


def _sample_grammar(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    figure_options(parser, number=64)


def _reconstruct_grammar(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    data_options(parser, default=None)
    split_option(parser)
    figure_options(parser, number=8)


_EVALUATE: Final = (
    "measure a run: bounds with errors, and whether to believe them",
    "Measure a trained VAE: the ELBO, the importance-weighted bounds on log p(x), the KL\n"
    "divergence, each with an error over data and over particles, in nats per datum, and whether\n"
    "the weights are to be believed. The table is printed and kept in the run's folder. Ctrl-C\n"
    "keeps what is done, labelled partial.",
    "  pyrovae evaluate runs/digits\n"
    "  pyrovae evaluate runs/digits --particles 5000 --ais 1000 --gaps --latents\n"
    "  pyrovae evaluate runs/mnist --particles 5000 --ks 1 50 5000 --limit 1000\n"
    "  pyrovae evaluate runs/mine --recipe my_vae.py --split validation",
)
_COMPARE: Final = (
    "compare two runs, paired over the data of their evaluations",
    "Subtract two evaluations datum by datum: which model is ahead, by how much, and whether the\n"
    "data can tell. Both runs are evaluated on the same data first.",
    "  pyrovae compare runs/wide runs/narrow\n"
    "  pyrovae compare runs/wide runs/narrow --out comparison.png",
)
_REPORT: Final = (
    "write a run's report.html: one file, with every figure in it",
    "Write what is known of an evaluated run as one page: whether its bounds can be trusted, the\n"
    "tables, the figures, what each further measurement found, the commands and the seeds. The\n"
    "file loads nothing, and can be sent as it is.",
    "  pyrovae report runs/digits\n"
    "  pyrovae report runs/mnist --out mnist.html\n"
    "  pyrovae report runs/mine --recipe my_vae.py",
)
_SAMPLE: Final = (
    "draw data from a run's prior",
    "Draw z from the prior and show the mean of p(x | z).",
    "  pyrovae sample runs/digits\n  pyrovae sample runs/digits -n 100 --out samples.png",
)
_RECONSTRUCT: Final = (
    "draw data and their reconstructions",
    "Show data above the mean of p(x | z) at one draw z from the guide.",
    "  pyrovae reconstruct runs/digits -n 10 --out reconstructions.png",
)
