"""The command line: train a VAE, measure it, look at it.

This file holds the grammar; what a command does is in `commands`, imported once the arguments are
read, so that `pyrovae --help` answers without waiting for torch. Whatever is wrong with the input
is one line on stderr and exit code 2; a training whose loss was not finite exits with 1, an
interrupt (Ctrl-C) with 130.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import pyrovae
from pyrovae import catalogue, schedules


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Example:
        >>> main(["evaluate", "no/such/run", "--particles", "10"])  # one line on stderr
        2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
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
    from pyrovae import commands

    try:
        code: int = getattr(commands, arguments.command)(arguments)
    except ArithmeticError as error:
        return commands.complain(error, 1)
    except (ValueError, OSError) as error:
        return commands.complain(error, 2)
    except RuntimeError as error:  # torch's own: no memory left, a number that overflows
        return commands.complain(error, 1)
    return code


class _Parser(argparse.ArgumentParser):
    """Complain in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and where help is, and exit with 2."""
        self.exit(2, f"pyrovae: error: {message} (see `{self.prog} --help`)\n")


def _layout(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=96)


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        with contextlib.suppress(ValueError):
            if lowest <= int(text) < 2**63:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {lowest} or more")

    return number


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def _schedule(text: str) -> str:
    try:
        schedules.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


_COUNT = _at_least(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pyrovae",
        description="Train variational autoencoders as pairs of Pyro programs, and measure them\n"
        "with importance-weighted bounds.",
        epilog="start here:\n  pyrovae demo\n\nhelp on one command:\n  pyrovae train --help",
        formatter_class=_layout,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"pyrovae {pyrovae.__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo_grammar(_command(commands, "demo", _DEMO))
    _train_grammar(_command(commands, "train", _TRAIN))
    _evaluate_grammar(_command(commands, "evaluate", _EVALUATE))
    _sample_grammar(_command(commands, "sample", _SAMPLE))
    _reconstruct_grammar(_command(commands, "reconstruct", _RECONSTRUCT))
    return parser


def _command(commands: Any, name: str, texts: tuple[str, str, str]) -> argparse.ArgumentParser:
    summary, description, examples = texts
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=_layout,
    )
    parser.set_defaults(command=name)
    return parser


def _demo_grammar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pyrovae-demo"),
        metavar="FOLDER",
        help="where the run goes (pyrovae-demo); an earlier demo there is written over",
    )
    parser.add_argument(
        "--epochs", type=_COUNT, default=40, metavar="N", help="walks over the data (40)"
    )
    _particles_option(parser)
    parser.set_defaults(batch_size=50, lr=4e-3, seed=0, patience=None, compile=None)
    parser.set_defaults(prior="standard-normal", likelihood="bernoulli", guide="mean-field")
    parser.set_defaults(objective="elbo", draws=None, gradient="plain")
    parser.set_defaults(kl_weight="1", free_bits=None)


def _train_grammar(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    _data_options(data, default="digits")
    data.add_argument(
        "--binarization",
        choices=["dynamic", "static", "none"],
        help="draw grey pixels as 0 or 1 at each use, once, or not (dynamic for a binary "
        "likelihood, and for a recipe's that declares no domain; else none)",
    )
    _model_options(parser.add_argument_group("the VAE: tanh networks, or a recipe of your own"))
    _training_options(parser.add_argument_group("training"))
    _objective_options(parser.add_argument_group("the objective"))
    run = parser.add_argument_group("the run")
    run.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where it goes")
    run.add_argument("--overwrite", action="store_true", help="write over a run that is there")


def _model_options(model: Any) -> None:
    model.add_argument(
        "--latents", type=_COUNT, default=50, metavar="D", help="dimensions of z (50)"
    )
    model.add_argument(
        "--hidden",
        type=_COUNT,
        nargs="+",
        default=[200, 200],
        metavar="WIDTH",
        help="hidden layers of the guide's network, mirrored in the likelihood's (200 200)",
    )
    parts = (
        ("prior", "standard-normal", "p(z)"),
        ("likelihood", "bernoulli", "p(x | z); a scale is learned"),
        ("guide", "mean-field", "q(z | x); sphere and power-spherical go together"),
    )
    for role, default, said in parts:
        names = list(catalogue.TABLES[role])
        model.add_argument(
            f"--{role}",
            choices=names,
            default=default,
            metavar="NAME",
            help=f"{said}: {', '.join(names)} ({default})",
        )
    for role, _, _ in parts:
        _part_options(model, role)
    _recipe_option(model)


def _training_options(training: Any) -> None:
    training.add_argument(
        "--epochs", type=_COUNT, default=20, metavar="N", help="walks over the data (20)"
    )
    training.add_argument(
        "--batch-size", type=_COUNT, default=100, metavar="N", help="data in a step (100)"
    )
    training.add_argument(
        "--lr", type=_positive, default=1e-3, metavar="RATE", help="of Adam (0.001)"
    )
    training.add_argument(
        "--patience",
        type=_COUNT,
        metavar="EPOCHS",
        help="stop when the validation ELBO has not risen for so long; keep the best",
    )
    _compile_option(training, "a training of 5,000 steps or more")
    _seed_option(training)


def _objective_options(objective: Any) -> None:
    objective.add_argument(
        "--objective",
        choices=list(catalogue.OBJECTIVES),
        default="elbo",
        metavar="NAME",
        help=f"what a step raises: {', '.join(catalogue.OBJECTIVES)} (elbo)",
    )
    objective.add_argument(
        "--particles",
        dest="draws",
        type=_COUNT,
        metavar="K",
        help="draws for each datum (1 for the elbo)",
    )
    objective.add_argument(
        "--gradient",
        choices=["plain", "stl", "dreg"],
        default="plain",
        help="how it reaches the guide: plain, sticking the landing, or doubly "
        "reparameterised (plain)",
    )
    _part_options(objective, "objective")
    objective.add_argument(
        "--kl-weight",
        type=_schedule,
        default="1",
        metavar="SCHEDULE",
        help="the weight of the KL term: a number, or linear:0:1:10, from 0 to 1 over 10 epochs; "
        "so too sigmoid:0:1:10, and cyclical:0:1:10, again every 10 (1)",
    )
    objective.add_argument(
        "--free-bits",
        type=_positive,
        metavar="NATS",
        help="the KL that each dimension of z has free; for a mean-field guide",
    )


def _part_options(group: Any, role: str) -> None:
    """Add what the names of a role take, such as `--prior.components`, each option once."""
    takers: dict[str, list[str]] = {}
    for name in catalogue.TABLES[role]:
        for option, default in catalogue.options_of(role, name).items():
            takers.setdefault(option, []).append(f"{name} ({default})")
    for option, names in takers.items():
        group.add_argument(
            f"--{role}.{option}",
            default=argparse.SUPPRESS,
            metavar="NUMBER",
            help=f"of {', '.join(names)}",
        )


def _evaluate_grammar(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _data_options(parser, default=None)
    _split_option(parser)
    _particles_option(parser)
    parser.add_argument(
        "--ks", type=_COUNT, nargs="+", metavar="k", help="the k of IWAE-k (10 100 1000 ... K)"
    )
    parser.add_argument("--limit", type=_COUNT, metavar="N", help="the first N data only")
    _compile_option(parser, "a measurement of 2,000,000 particles or more")
    _seed_option(parser)


def _sample_grammar(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _figure_options(parser, number=64)


def _reconstruct_grammar(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _data_options(parser, default=None)
    _split_option(parser)
    _figure_options(parser, number=8)


def _run_arguments(parser: Any) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    _recipe_option(parser)


def _recipe_option(parser: Any) -> None:
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE.py",
        help="a Python file whose function vae(shape) returns a pyrovae.VAE; shape is "
        "(channels, height, width), x has rows of channels * height * width numbers",
    )


def _data_options(parser: Any, default: str | None) -> None:
    said = default or "what the run was trained on"
    parser.add_argument(
        "--data", default=default, metavar="NAME", help=f"digits or mnist ({said})"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="the folder of MNIST/raw, for mnist"
    )


def _split_option(parser: Any) -> None:
    splits = ["test", "validation", "train"]
    parser.add_argument("--split", choices=splits, default="test", help="which data (test)")


def _particles_option(parser: Any) -> None:
    parser.add_argument(
        "--particles", type=_COUNT, default=1000, metavar="K", help="draws for each datum (1000)"
    )


def _seed_option(parser: Any) -> None:
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, metavar="N", help="of everything random (0)"
    )


def _compile_option(parser: Any, work: str) -> None:
    parser.add_argument(
        "--no-compile",
        dest="compile",
        action="store_const",
        const=False,
        help=f"run the programs as Pyro runs them, always; else {work} is compiled",
    )


def _figure_options(parser: Any, number: int) -> None:
    parser.add_argument(
        "-n", dest="number", type=_COUNT, default=number, metavar="N", help=f"how many ({number})"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the file to write (in RUN/figures)"
    )
    _seed_option(parser)


_DEMO: Final = (
    "train and measure a VAE on handwritten digits, in about a minute",
    "Train a small VAE on real handwritten digits, which come with scikit-learn: nothing is\n"
    "downloaded. Print a table of bounds on log p(x) and draw figures.",
    "  pyrovae demo\n  pyrovae demo --out runs/first --epochs 200",
)
_TRAIN: Final = (
    "train a VAE and keep it in a run's folder",
    "Train a VAE with pyro.infer.SVI. After each epoch the parameters and the history are\n"
    "written to the run's folder. Ctrl-C ends the training and keeps what there is.",
    "  pyrovae train --data digits --latents 8 --hidden 200 --epochs 60 --out runs/digits\n"
    "  pyrovae train --data mnist --root data --out runs/mnist\n"
    "  pyrovae train --data digits --prior vampprior --prior.components 100 --out runs/vamp\n"
    "  pyrovae train --data digits --objective iwae --particles 50 --gradient dreg --out runs/iw\n"
    "  pyrovae train --data digits --recipe my_vae.py --out runs/mine\n\n"
    "a recipe, my_vae.py:\n"
    "  import math, pyro, pyro.distributions as dist, pyrovae as pv, torch\n\n"
    "  def prior():\n"
    '      return pyro.sample("z", dist.StudentT(5.0, torch.zeros(8), 1.0).to_event(1))\n\n'
    "  def vae(shape):\n"
    "      width = math.prod(shape)\n"
    "      likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(8, 200, width))\n"
    "      guide = pv.guides.MeanFieldNormal(pv.nets.MLP(width, 200, 2 * 8))\n"
    "      return pv.VAE(prior, likelihood, guide)",
)
_EVALUATE: Final = (
    "print a run's ELBO, IWAE-k and KL, each with its errors",
    "Measure a trained VAE: the ELBO, the importance-weighted bounds on log p(x), the KL\n"
    "divergence, each with an error over data and over particles, in nats per datum. The table\n"
    "is printed and kept in the run's folder.",
    "  pyrovae evaluate runs/digits\n"
    "  pyrovae evaluate runs/mnist --particles 5000 --ks 1 50 5000 --limit 1000\n"
    "  pyrovae evaluate runs/mine --recipe my_vae.py --split validation",
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
