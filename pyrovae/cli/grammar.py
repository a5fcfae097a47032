"""The grammar of the command line: commands, options and help.

This module does not import torch, so help is printed at once. A command imports what it needs
when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from rich.console import Console

import pyrovae
from pyrovae.cli.examples import EPILOGUES
from pyrovae.cli.options import (
    Command,
    Common,
    Count,
    Evaluation,
    Exported,
    Factored,
    Imputed,
    Opened,
    Place,
    Probed,
    Reconstructed,
    Sampled,
    Swept,
    Trained,
)
from pyrovae.cli.walk_options import Explored, Interpolated, Mapped, Planned, Walked

__all__ = ["APP"]


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
    from pyrovae.cli import demo as run

    return run.demo(out, epochs=epochs, particles=particles, command=command)


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
        Path | None,
        Parameter(
            help="The file to write: a figure, .png (by default in RUN/figures), or a page, .html."
        ),
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


@APP.command(help_epilogue=EPILOGUES["factors"])
def factors(run: Folder, /, *, options: Factored = Factored(), command: Command = ()) -> int:
    """Find which latent unit of a run holds which factor of its data.

    Prints the information of the units about each factor in nats, and the metrics of
    disentanglement with their errors, and saves both in the run's folder. The units are the
    posterior means.
    """
    from pyrovae.cli import factors

    return factors.factors(run, options, command=command)


@APP.command(help_epilogue=EPILOGUES["probe"])
def probe(run: Folder, /, *, options: Probed = Probed()) -> int:
    """Predict the labels of data from a run's posterior means.

    Prints the accuracy of a linear model and of the nearest neighbors, cross-validated, beside
    that of as many principal components of the training data, of x itself, and of chance.
    """
    from pyrovae.cli import probe

    return probe.probe(run, options)


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


@APP.command(help_epilogue=EPILOGUES["walk"])
def walk(run: Folder, /, *, options: Walked = Walked()) -> int:
    """Draw what each latent dimension does to the data.

    Each row moves one dimension through the quantiles of the prior, from -3 to 3 of a standard
    normal, and shows the mean of p(x | z). Rows are sorted by KL and labeled with it, and with
    the factor held if `pyrovae factors RUN` was run. Of tables, shows how each column changes.
    """
    from pyrovae.cli import walk

    return walk.walk(run, options)


@APP.command(help_epilogue=EPILOGUES["interpolate"])
def interpolate(
    run: Folder,
    a: Annotated[Place, Parameter(name="A", help="A row of the split.")],
    b: Annotated[Place, Parameter(name="B", help="Another row.")],
    /,
    *,
    options: Interpolated = Interpolated(),
) -> int:
    """Draw what lies between two data in the latent space.

    Shows the means of p(x | z) on the line and on the great circle between their posterior means.
    """
    from pyrovae.cli import walk

    return walk.interpolate(run, options, rows=(a, b))


@APP.command(help_epilogue=EPILOGUES["manifold"])
def manifold(run: Folder, /, *, options: Planned = Planned()) -> int:
    """Draw the means of p(x | z) over two latent dimensions, at the quantiles of the prior."""
    from pyrovae.cli import walk

    return walk.manifold(run, options)


@APP.command(name="map", help_epilogue=EPILOGUES["map"])
def latent_map(run: Folder, /, *, options: Mapped = Mapped()) -> int:
    """Draw the posterior means of data in a plane, colored by class or by a covariate."""
    from pyrovae.cli import walk

    return walk.latent_map(run, options)


@APP.command(help_epilogue=EPILOGUES["impute"])
def impute(run: Folder, /, *, options: Imputed) -> int:
    """Impute a table's missing values: a number by its mean, a class by the most probable."""
    from pyrovae.cli import tables

    return tables.impute(run, options)


@APP.command(help_epilogue=EPILOGUES["explore"])
def explore(run: Folder, /, *, options: Explored = Explored()) -> int:
    """Walk the latent space of a run in a browser.

    Serves a page on this machine alone, at an address with a token, until Ctrl-C: the map of
    posterior means over the prior and the aggregate posterior, each datum with its bounds, a
    slider for each latent, decoded at once. Nothing is written. Needs 'pyrovae[explore]'. With
    `--out`, the page is written to one file instead, which opens without a server.
    """
    from pyrovae.cli.explore import command

    return command.explore(run, options)


@APP.command(help_epilogue=EPILOGUES["export"])
def export(run: Folder, /, *, options: Exported = Exported()) -> int:
    """Write a run's encoder and decoder as programs that need neither this library nor Pyro.

    encoder.pt2 maps x to the mean and the standard deviation of q(z | x), decoder.pt2 maps z to
    the mean of p(x | z); torch.export.load reads them. Each is compared with torch on the first
    256 data and written only if they agree to 1e-5.
    """
    from pyrovae.cli import export

    return export.export(run, options)
