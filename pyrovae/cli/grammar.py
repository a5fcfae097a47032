"""The grammar of the command line: commands, options and help.

This module does not import torch, so help is printed at once. A command imports what it needs
when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, CoercionError, Group, Parameter, Token
from cyclopts.validators import Number
from rich.console import Console

import pyrovae
from pyrovae.cli import names
from pyrovae.cli.examples import EPILOGUES, RECIPE, ROOT, TABLE, WHAT

__all__ = [
    "ALIASES",
    "APP",
    "Drawn",
    "Evaluation",
    "Imputed",
    "Opened",
    "Reconstructed",
    "Sampled",
    "Swept",
    "Trained",
]


def _whole(kind: Any, tokens: Sequence[Token]) -> Any:
    """Parse integers. Cyclopts would round 1.5 to 1."""
    numbers = []
    for token in tokens:
        try:
            numbers.append(int(token.value))
        except ValueError:
            raise CoercionError(token=token, target_type=int) from None
    return numbers[0] if kind is int else numbers


Int = Annotated[int, Parameter(converter=_whole)]
Ints = Annotated[list[int], Parameter(converter=_whole, consume_multiple=True)]
Flag = Annotated[bool, Parameter(show_default=False)]
Count = Annotated[Int, Parameter(validator=Number(gte=1))]
Seed = Annotated[Int, Parameter(validator=Number(gte=0, lt=2**63))]
Split = Literal["test", "validation", "train"]
Command = Annotated[tuple[str, ...], Parameter(parse=False)]

DATA: Final = Group.create_ordered("Data")
MODEL: Final = Group.create_ordered("The VAE")
OBJECTIVE: Final = Group.create_ordered("The objective")
TRAINING: Final = Group.create_ordered("Training")
RUN: Final = Group.create_ordered("The run")
FURTHER: Final = Group.create_ordered("Further measurements")


def _in(group: Group, help: str) -> Parameter:
    return Parameter(group=group, help=help)


def _named(role: str, what: str) -> Parameter:
    known = f"{what}: {', '.join(names.parts(role))}."
    by_data = " The default follows from the values of the data." if role == "likelihood" else ""
    return _in(MODEL, known + by_data)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    traceback: Annotated[Flag, Parameter(help="Print Python's traceback above an error.")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Trained(Common):
    """The options of `pyrovae train`: short names of entries of the experiment, and the run."""

    config: Annotated[Path | None, _in(RUN, "A TOML file of an experiment.")] = None
    like: Annotated[
        Path | None, _in(RUN, "A run whose experiment is the default; it is not trained further.")
    ] = None
    resume: Annotated[
        Path | None,
        _in(RUN, "A run that was broken off: train it on, as if it had never stopped."),
    ] = None
    out: Annotated[Path | None, _in(RUN, "The folder to write the run to.")] = None
    overwrite: Annotated[Flag, _in(RUN, "Overwrite an existing run.")] = False

    data: Annotated[str | None, _in(DATA, f"{WHAT} (digits).")] = None
    table: Annotated[bool | None, _in(DATA, TABLE)] = None
    root: Annotated[Path | None, _in(DATA, ROOT)] = None
    binarization: Annotated[
        Literal["dynamic", "static", "none"] | None,
        _in(
            DATA,
            "Binarize gray pixels at each use (dynamic), once (static) or not (none). The default "
            "is dynamic for intensities and a binary likelihood or one without a domain, else "
            "none.",
        ),
    ] = None

    prior: Annotated[str | None, _named("prior", "p(z)")] = None
    likelihood: Annotated[str | None, _named("likelihood", "p(x | z)")] = None
    guide: Annotated[str | None, _named("guide", "q(z | x)")] = None
    net: Annotated[str | None, _named("net", "The networks")] = None
    latents: Annotated[Int | None, _in(MODEL, "Dimensions of z (50).")] = None
    hidden: Annotated[
        Ints | None,
        _in(
            MODEL, "Hidden widths of the guide's network, mirrored in the likelihood's (200 200)."
        ),
    ] = None
    recipe: Annotated[Path | None, _in(MODEL, RECIPE)] = None

    objective: Annotated[
        str | None,
        _in(OBJECTIVE, f"The objective: {', '.join(names.parts('objective'))}."),
    ] = None
    particles: Annotated[Int | None, _in(OBJECTIVE, "Samples per datum.")] = None
    gradient: Annotated[
        str | None,
        _in(
            OBJECTIVE,
            "The gradient estimator of the guide: plain, stl (sticking the landing) or dreg.",
        ),
    ] = None
    kl_weight: Annotated[
        str | None,
        _in(
            OBJECTIVE,
            "The weight of the KL term: a number, or a schedule: linear:0:1:10 or sigmoid:0:1:10, "
            "from 0 to 1 over 10 epochs, or cyclical:0:1:10, repeated every 10 epochs (1).",
        ),
    ] = None
    free_bits: Annotated[
        float | None, _in(OBJECTIVE, "The KL in nats per dimension of z that is not penalized.")
    ] = None

    epochs: Annotated[Int | None, _in(TRAINING, "Passes over the data (20).")] = None
    batch_size: Annotated[Int | None, _in(TRAINING, "Data per step (100).")] = None
    optimizer: Annotated[
        str | None,
        _in(
            TRAINING,
            "A class of torch.optim, such as AdamW; --optimizer.weight_decay 0.01 (Adam).",
        ),
    ] = None
    lr: Annotated[
        float | str | None,
        _in(
            TRAINING,
            "The learning rate: a number, or a schedule of steps over the whole training: "
            "cosine:0.001:500, with 500 steps of warm-up; one-cycle:0.01; "
            "exponential:0.001:0.999; constant:0.001:500; plateau:0.001:0.5:5 (0.001).",
        ),
    ] = None
    clip_norm: Annotated[float | None, _in(TRAINING, "Clip the gradient to this norm.")] = None
    accumulate: Annotated[Int | None, _in(TRAINING, "Batches per step (1).")] = None
    ema: Annotated[
        float | None, _in(TRAINING, "Measure and save an average of the weights, with this decay.")
    ] = None
    max_steps: Annotated[Int | None, _in(TRAINING, "Stop after this many steps.")] = None
    max_time: Annotated[
        str | None, _in(TRAINING, "Stop after this time: seconds, or such as 2h or 1h30m.")
    ] = None
    log: Annotated[
        list[Literal["csv", "tensorboard", "figure"]] | None,
        Parameter(
            group=TRAINING,
            consume_multiple=True,
            help="Log the training to RUN/log.csv, RUN/tensorboard or RUN/figures/history.png.",
        ),
    ] = None
    patience: Annotated[
        Int | None,
        _in(TRAINING, "Stop when the validation ELBO has not increased for this many epochs."),
    ] = None
    seed: Annotated[Int | None, _in(TRAINING, "The random seed (0).")] = None
    precision: Annotated[
        Literal["bf16"] | None,
        _in(TRAINING, "Compute the layers of networks in bfloat16, and all else in float32."),
    ] = None
    no_compile: Annotated[Flag, _in(TRAINING, "Do not compile the programs.")] = False
    devices: Annotated[
        Count,
        _in(
            TRAINING,
            "Train in so many processes, each on its own GPU, or on the CPU if there is none. "
            "Each takes --batch-size data per step.",
        ),
    ] = 1


ALIASES: Final = {
    **{table: table for table in ("data", "optimizer", *names.MODULES)},
    **{key: f"data.{key}" for key in ("root", "binarization", "table")},
    "latents": "prior.latents",
    "hidden": "net.hidden",
    **{key: f"objective.{key}" for key in ("particles", "gradient")},
    **{
        key: f"training.{key}"
        for key in (
            "epochs batch_size lr clip_norm accumulate ema max_steps max_time log patience seed "
            "kl_weight free_bits precision"
        ).split()
    },
}
"""The entry of an experiment that each option of `pyrovae train` sets."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Swept(Common):
    """The options of `pyrovae sweep`."""

    out: Annotated[Path, Parameter(help="The folder of the cells, each of them a run.")]
    jobs: Annotated[Count, Parameter(help="Train N cells at once; above 1, on a thread each.")] = 1
    evaluate: Annotated[
        Count | None, Parameter(help="Rank by IWAE-K of the validation data, with K samples.")
    ] = None
    print: Annotated[Flag, Parameter(help="Print a command line for each cell left.")] = False
    recipe: Annotated[Path | None, Parameter(help=RECIPE)] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WithRecipe(Common):
    """The options of commands that load a run."""

    recipe: Annotated[Path | None, Parameter(help=RECIPE)] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Opened(WithRecipe):
    """The options of commands that load a run and its data."""

    data: Annotated[
        str | None,
        Parameter(
            help="A name or path of data other than those of the run. A file that does not give "
            "its splits is evaluated as a whole."
        ),
    ] = None
    root: Annotated[Path | None, Parameter(help=ROOT)] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Evaluation(Opened):
    """The options of `pyrovae evaluate`."""

    split: Annotated[Split, Parameter(help="The split of the data.")] = "test"
    limit: Annotated[Count | None, Parameter(help="Evaluate the first N data only.")] = None
    particles: Annotated[Count, Parameter(help="Samples per datum.")] = 1000
    ks: Annotated[Ints | None, Parameter(help="The k of IWAE-k (10, 100, 1000, ... up to K).")] = (
        None
    )
    seed: Annotated[Seed, Parameter(help="The random seed.")] = 0
    no_compile: Annotated[Flag, Parameter(help="Do not compile the programs.")] = False

    ais: Annotated[
        Count | None,
        _in(FURTHER, "Annealed importance sampling with T temperatures: bounds on log p(x)."),
    ] = None
    ais_start: Annotated[
        Literal["prior", "guide"] | None,
        _in(
            FURTHER,
            "The start of its chains; a good guide needs fewer temperatures than the prior.",
        ),
    ] = None
    ais_limit: Annotated[Count | None, _in(FURTHER, "Use the first N data for --ais (64).")] = None
    gaps: Annotated[
        Flag, _in(FURTHER, "Inference gaps: does the family of q limit the bound, or its network?")
    ] = False
    gaps_limit: Annotated[Count | None, _in(FURTHER, "Use the first N data for --gaps (100).")] = (
        None
    )
    latents: Annotated[
        Flag, _in(FURTHER, "Active units, mutual information, posterior collapse and holes.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Drawn(WithRecipe):
    """The options of commands that draw images."""

    number: Annotated[
        Count | None, Parameter(name="-n", help="The number of images (64, or 8 reconstructions).")
    ] = None
    out: Annotated[
        Path | None, Parameter(help="The PNG file to write (by default in RUN/figures).")
    ] = None
    seed: Annotated[Seed, Parameter(help="The random seed.")] = 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sampled(Drawn):
    """The options of `pyrovae sample`."""

    means: Annotated[
        Flag, Parameter(help="Show the mean of p(x | z) at each z, without the noise of x.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reconstructed(Opened, Drawn):
    """The options of `pyrovae reconstruct`."""

    split: Annotated[Split, Parameter(help="The split of the data.")] = "test"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Imputed(WithRecipe):
    """The options of `pyrovae impute`."""

    data: Annotated[Path, Parameter(help="The table: .csv, .parquet or .feather.")]
    out: Annotated[Path, Parameter(help="The file to write, of one of these kinds.")]
    particles: Annotated[Count, Parameter(help="Samples per row.")] = 1000
    seed: Annotated[Seed, Parameter(help="The random seed.")] = 0


APP: Final = App(
    name="pyrovae",
    version=f"pyrovae {pyrovae.__version__}",
    version_flags=["--version", "-V"],
    help="Train variational autoencoders as pairs of Pyro programs, and evaluate them\n"
    "with importance-weighted bounds.",
    help_epilogue="start here:\n  pyrovae demo\n\nhelp on one command:\n  pyrovae train --help",
    help_format="plaintext",
    console=Console(width=96, highlight=False),
    default_parameter=Parameter(negative=(), allow_repeating=True),
)


Folder = Annotated[Path, Parameter(name="RUN", help="The folder of a run.")]
DEMO: Final = Path("pyrovae-demo")


@APP.command(help_epilogue=EPILOGUES["demo"])
def demo(
    *,
    out: Annotated[
        Path, Parameter(help="The folder to write to; an earlier demo is replaced.")
    ] = DEMO,
    epochs: Annotated[Count, Parameter(help="Passes over the data.")] = 40,
    particles: Annotated[Count, Parameter(help="Draws for each datum.")] = 1000,
    common: Common = Common(),
    command: Command = (),
) -> int:
    """Train and evaluate a VAE on handwritten digits, in about a minute.

    The digits come with scikit-learn, so nothing is downloaded. Prints a table of bounds on
    log p(x) and draws figures.
    """
    from pyrovae.cli import train

    return train.demo(out, epochs=epochs, particles=particles, command=command)


@APP.command(help_epilogue=EPILOGUES["train"])
def train(
    experiment: Annotated[Path | None, Parameter(help="A TOML file of an experiment.")] = None,
    /,
    *,
    options: Trained = Trained(),
    entries: Annotated[tuple[tuple[str, Any], ...], Parameter(parse=False)] = (),
    command: Command = (),
) -> int:
    """Train a VAE and save it in a run's folder.

    A part is given by its class and the arguments of its constructor: --prior VampPrior
    --prior.components 100. Widths of networks and the number of latents are derived. The same
    tables can be given in a TOML file: [prior], [likelihood], [guide], [net], [objective],
    [optimizer], [data], [training]. Options override the file, and the file overrides the run of
    --like. The run is saved after each epoch, and kept at Ctrl-C; --resume RUN trains it on.
    """
    from pyrovae.cli import train

    return train.train(experiment, options, entries, command=command)


@APP.command(help_epilogue=EPILOGUES["sweep"])
def sweep(
    experiment: Annotated[Path, Parameter(help="A TOML file with a table [sweep].")],
    /,
    *,
    options: Swept,
) -> int:
    """Train an experiment at each point of a grid, or at those that Optuna proposes.

    The file's table [sweep] lists values of entries; each combination is a cell, a run of `pyrovae
    train` in OUT. With trials = N, Optuna proposes N cells. Cells are ranked by the validation
    ELBO, also in OUT/results.jsonl. The same command again trains the cells that are left.
    """
    from pyrovae.cli import sweep

    return sweep.sweep(experiment, options)


@APP.command(help_epilogue=EPILOGUES["evaluate"])
def evaluate(run: Folder, /, *, options: Evaluation = Evaluation(), command: Command = ()) -> int:
    """Evaluate a run: bounds on log p(x), their errors, and whether they are reliable.

    Prints the ELBO, the importance-weighted bounds and the KL divergence, each with its error
    over data and over particles, in nats per datum, and saves them in the run's folder. Ctrl-C
    saves the data done so far, labeled partial.
    """
    from pyrovae.cli import measure

    return measure.evaluate(run, options, command=command)


@APP.command(help_epilogue=EPILOGUES["compare"])
def compare(
    run: Folder,
    other: Annotated[Path, Parameter(name="OTHER", help="The folder of another run.")],
    /,
    *more: Annotated[Path, Parameter(name="MORE", help="The folders of further runs.")],
    out: Annotated[
        Path | None, Parameter(help="The PNG file to write (by default in RUN/figures).")
    ] = None,
    common: Common = Common(),
) -> int:
    """Compare two runs, or rank several, by paired differences over their data.

    Evaluate all on the same data first. Several runs are ranked by the tightest bound that all
    evaluations have.
    """
    from pyrovae.cli import measure

    return measure.compare([run, other, *more], out=out)


@APP.command(help_epilogue=EPILOGUES["report"])
def report(
    run: Folder,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The page to write (RUN/report.html).")] = None,
    options: Opened = Opened(),
) -> int:
    """Write a run's report as one HTML file.

    The page has the verdict on the bounds, the tables, the figures, the results of further
    measurements, the commands and the seeds. It loads no other files.
    """
    from pyrovae.cli import measure

    return measure.report(run, options, out=out)


@APP.command(help_epilogue=EPILOGUES["sample"])
def sample(run: Folder, /, *, options: Sampled = Sampled()) -> int:
    """Draw samples of a run's model.

    Shows samples of x, as vae.sample: z from the prior, then x from p(x | z). Binary pixels look
    grainy; --means shows the mean of p(x | z) at each z instead. Of mixed columns, writes rows of
    a table.
    """
    from pyrovae.cli import measure

    return measure.sample(run, options)


@APP.command(help_epilogue=EPILOGUES["reconstruct"])
def reconstruct(run: Folder, /, *, options: Reconstructed = Reconstructed()) -> int:
    """Draw data and their reconstructions.

    Shows data above the mean of p(x | z) at one draw z from the guide.
    """
    from pyrovae.cli import measure

    return measure.reconstruct(run, options)


@APP.command(help_epilogue=EPILOGUES["impute"])
def impute(run: Folder, /, *, options: Imputed) -> int:
    """Impute a table's missing values: a number by its mean, a class by the most probable."""
    from pyrovae.cli import tables

    return tables.impute(run, options)
