"""The options of the commands: short names of entries of the experiment, and the run.

Like the grammar, this module does not import torch. Its annotations are evaluated, so that classes
in other modules can derive from these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import CoercionError, Group, Parameter, Token
from cyclopts.validators import Number

from pyrovae.cli import names
from pyrovae.cli.examples import RECIPE, ROOT, TABLE, WHAT

__all__ = [
    "ALIASES",
    "Command",
    "Common",
    "Count",
    "Drawn",
    "Evaluation",
    "Exported",
    "Factored",
    "Flag",
    "Imputed",
    "Opened",
    "Probed",
    "Place",
    "Reconstructed",
    "Sampled",
    "Swept",
    "Trained",
    "WithRecipe",
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


Place = Annotated[Int, Parameter(validator=Number(gte=0))]


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
    """The options of commands that draw images, sequences or texts."""

    number: Annotated[
        Count | None,
        Parameter(
            name="-n",
            help="The number of images (64, or 8 reconstructions), of sequences (4) or of texts "
            "(8).",
        ),
    ] = None
    out: Annotated[
        Path | None,
        Parameter(
            help="The PNG file to write (by default in RUN/figures); of texts, which are printed "
            "by default, a file of lines."
        ),
    ] = None
    seed: Annotated[Seed, Parameter(help="The random seed.")] = 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sampled(Drawn):
    """The options of `pyrovae sample`."""

    means: Annotated[
        Flag, Parameter(help="Show the mean of p(x | z) at each z, without the noise of x.")
    ] = False
    by: Annotated[
        str | None,
        Parameter(help="A covariate: show a row of -n images (10) for each of its categories."),
    ] = None


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Probed(Opened):
    """The options of `pyrovae probe`."""

    split: Annotated[Split, Parameter(help="The split of the data.")] = "test"
    limit: Annotated[Count | None, Parameter(help="Probe the first N data only.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Factored(Opened):
    """The options of `pyrovae factors`."""

    split: Annotated[Split, Parameter(help="The split of the data.")] = "test"
    limit: Annotated[Count | None, Parameter(help="Measure the first N data only.")] = None
    factors: Annotated[
        Path | None,
        Parameter(
            help="A file of the factors, one row for each row of the data and one column for each "
            "factor: .csv, .parquet, .feather, .npy, .npz. The default is the factors of the "
            "data set, or else its labels."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Exported(Opened):
    """The options of `pyrovae export`."""

    split: Annotated[Split, Parameter(help="The split whose data the programs are held to.")] = (
        "test"
    )
    out: Annotated[Path | None, Parameter(help="The folder to write to (RUN/export).")] = None
    onnx: Annotated[Flag, Parameter(help="Write models of ONNX too; needs 'pyrovae[onnx]'.")] = (
        False
    )
