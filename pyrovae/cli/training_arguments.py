"""The grammar of `pyrovae demo` and `pyrovae train`: parts, objective, training, by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from pyrovae.cli import catalogue
from pyrovae.cli.arguments import (
    COUNT,
    compile_option,
    data_options,
    particles_option,
    positive,
    recipe_option,
    schedule,
    seed_option,
)


def demo(parser: argparse.ArgumentParser) -> None:
    """Add what `pyrovae demo` takes, and what it decides."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pyrovae-demo"),
        metavar="FOLDER",
        help="where the run goes (pyrovae-demo); an earlier demo there is written over",
    )
    parser.add_argument(
        "--epochs", type=COUNT, default=40, metavar="N", help="walks over the data (40)"
    )
    particles_option(parser)
    parser.set_defaults(batch_size=50, lr=4e-3, seed=0, patience=None, compile=None)
    parser.set_defaults(prior="standard-normal", likelihood="bernoulli", guide="mean-field")
    parser.set_defaults(objective="elbo", draws=None, gradient="plain")
    parser.set_defaults(kl_weight="1", free_bits=None)


def train(parser: argparse.ArgumentParser) -> None:
    """Add what `pyrovae train` takes."""
    data = parser.add_argument_group("data")
    data_options(data, default="digits")
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
        "--latents", type=COUNT, default=50, metavar="D", help="dimensions of z (50)"
    )
    model.add_argument(
        "--hidden",
        type=COUNT,
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
    recipe_option(model)


def _training_options(training: Any) -> None:
    training.add_argument(
        "--epochs", type=COUNT, default=20, metavar="N", help="walks over the data (20)"
    )
    training.add_argument(
        "--batch-size", type=COUNT, default=100, metavar="N", help="data in a step (100)"
    )
    training.add_argument(
        "--lr", type=positive, default=1e-3, metavar="RATE", help="of Adam (0.001)"
    )
    training.add_argument(
        "--patience",
        type=COUNT,
        metavar="EPOCHS",
        help="stop when the validation ELBO has not risen for so long; keep the best",
    )
    compile_option(training, "a training of 5,000 steps or more")
    seed_option(training)


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
        type=COUNT,
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
        type=schedule,
        default="1",
        metavar="SCHEDULE",
        help="the weight of the KL term: a number, or linear:0:1:10, from 0 to 1 over 10 epochs; "
        "so too sigmoid:0:1:10, and cyclical:0:1:10, again every 10 (1)",
    )
    objective.add_argument(
        "--free-bits",
        type=positive,
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


DEMO: Final = (
    "train and measure a VAE on handwritten digits, in about a minute",
    "Train a small VAE on real handwritten digits, which come with scikit-learn: nothing is\n"
    "downloaded. Print a table of bounds on log p(x) and draw figures.",
    "  pyrovae demo\n  pyrovae demo --out runs/first --epochs 200",
)
TRAIN: Final = (
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
