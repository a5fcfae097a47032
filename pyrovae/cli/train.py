"""Run `pyrovae train`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, Final

from torch.distributions import constraints

import pyrovae as pv
from pyrovae import plots
from pyrovae.cli import (
    build,
    defaults,
    devices,
    experiment,
    optimizer,
    recipes,
    sweep_table,
    watching,
)
from pyrovae.cli.complaints import INTERRUPTED, SIGTERMED
from pyrovae.cli.experiment import Tables, Training
from pyrovae.cli.figures import save_figures, vae_figures
from pyrovae.cli.options import ALIASES, Trained
from pyrovae.cli.signals import TERMINATED, stopping_at_sigterm
from pyrovae.data import DataSet, Split
from pyrovae.data.domains import in_words
from pyrovae.data.ranks import Ranks, alone
from pyrovae.data.readers import is_name
from pyrovae.measure.disentanglement.saved import FACTORS
from pyrovae.parts import is_known
from pyrovae.runs import Run
from pyrovae.runs import folder as folders
from pyrovae.runs.checkpoints import Checkpoints
from pyrovae.runs.sources import Source, binarization_for
from pyrovae.train import schedules
from pyrovae.train.callbacks import Callback, History, ProgressBar
from pyrovae.train.checkpoint import Checkpoint
from pyrovae.train.fit import Step, fit
from pyrovae.vae import VAE

__all__ = ["asked", "fitted", "train"]

RESULTS: Final = ("evaluation.*", FACTORS, "figures/*.png", "report.html")
"""The files of a run that are computed from its parameters."""


def train(
    file: Path | None,
    options: Trained,
    entries: Sequence[tuple[str, Any]] = (),
    *,
    command: Sequence[str],
) -> int:
    """Train a VAE and save it in a run's folder.

    Raises:
        ValueError: if the experiment or the folder is invalid.
    """
    out = _folder(file, options)
    tables = asked(file, options, entries)
    if devices.is_started():
        with devices.joined():
            return _train_into(out, tables, options, list(command))
    if options.resume is None:
        folders.refuse(out, overwrite=options.overwrite)
    else:
        Checkpoints(out).newest()  # raises before a folder is locked or data are read
    if options.devices > 1:
        # Data are downloaded once, and what is wrong is said once.
        with recipes.running(options.recipe), devices.silent():
            _made(tables, options, out)
        return devices.launch(options.devices, command)
    return _train_into(out, tables, options, list(command))


def _train_into(out: Path, tables: Tables, options: Trained, command: list[str]) -> int:
    """Train in a folder that no other training writes to."""
    if Ranks.present().rank:  # rank 0 holds the folder
        return _train(tables, options, out, command)
    with folders.held(out):
        if options.resume is not None:
            return _train(tables, options, out, command)
        # Check again under the lock: another process may have finished a run in the meantime.
        folders.refuse(out, overwrite=options.overwrite)
        return _train(tables, options, out, command)


def _folder(file: Path | None, options: Trained) -> Path:
    """Return the folder to write to: that of --out, or of the run that is resumed.

    Raises:
        ValueError: if there is none, or if --resume is given with what it says by itself.
    """
    if options.resume is None:
        if options.out is None:
            raise ValueError(
                "a run is written to a folder: name one with --out, or go on with one by --resume"
            )
        return options.out
    besides = {"--out": options.out, "--like": options.like, "an experiment": file}
    for name, value in besides.items():
        if value is not None:
            raise ValueError(
                f"--resume trains the run in its own folder, by its own experiment; got {name} "
                "too: leave it out (--like begins a new run of the same experiment)"
            )
    return options.resume


def asked(file: Path | None, options: Trained, entries: Sequence[tuple[str, Any]]) -> Tables:
    """Return the experiment: options override the file, which overrides the earlier run.

    Raises:
        ValueError: naming the entry that is invalid.
    """
    if file is not None and options.config is not None:
        raise ValueError(f"two experiments were given, {file} and {options.config}: give one")
    file = file or options.config
    layers = []
    earlier, swept = options.like or options.resume, False
    if earlier is not None:
        layers.append(_experiment_of(earlier, options.recipe))
    if file is not None:
        layers.append(experiment.read(file))
        swept = layers[-1].pop(experiment.SWEEP, None) is not None
    given: Tables = {}
    for name, entry in ALIASES.items():
        value = getattr(options, name)
        if value is not None:
            experiment.set_option(given, entry, str(value) if name == "root" else value)
    if options.no_compile:
        experiment.set_option(given, "training.compile", value=False)
    for entry, value in entries:
        experiment.set_option(given, entry, value)
    if file is not None and swept:
        _check_cell(file, given)
    tables = experiment.layered([*layers, experiment.checked(given)])
    for table in experiment.SETTINGS:
        experiment.settings(tables, table)
    optimizer.check(tables.get("optimizer"), experiment.settings(tables, "training"))
    return tables


def _check_cell(file: Path, given: Tables) -> None:
    """Check that options set every entry that the file's [sweep] varies.

    Raises:
        ValueError: naming the first that they do not set.
    """
    unset = sweep_table.read(file)[1].unset(given)
    if unset:
        raise ValueError(
            f"{file} has a table [sweep]: run `pyrovae sweep {file}`, or train one of its cells "
            f"with --{unset[0]} VALUE"
        )


def _experiment_of(folder: Path, recipe: Path | None) -> Tables:
    """Return the experiment that a run records.

    Raises:
        ValueError: if it records none, or if it was made by a recipe and none is given.
    """
    config = Run(folder).config
    if config.get("experiment") is None:
        raise ValueError(f"the run in {folder} records no experiment: `pyrovae train` writes one")
    if config.get("recipe") and recipe is None:
        wanted = recipes.described(config["recipe"])
        raise ValueError(f"the run in {folder} was made by a recipe: add --recipe with {wanted}")
    if recipe is not None and recipe.is_file():
        recipes.warn_if_changed(recipe, config.get("recipe"))
    return experiment.checked(config["experiment"])


def _made(tables: Tables, options: Trained, out: Path) -> tuple[VAE, DataSet, Source]:
    """Return the VAE to train, its data and their source."""
    seed = experiment.settings(tables, "training").seed
    download = options.root is not None or (options.like or options.resume) is None
    source, read = _read(tables, download=download)
    if options.recipe:
        data = read
        vae = recipes.run(options.recipe, data.shape, seed=seed, vocabulary=data.vocabulary)
    else:
        chosen = _with_likelihood(tables, read)
        read = _leveled(read, chosen)
        data = read if source.binarization is None else source.binarized(read)
        vae = build.vae(chosen, data, seed=seed)
    if source.binarization is None:
        intensities = read.domain is constraints.unit_interval
        source = replace(source, binarization=binarization_for(vae) if intensities else "none")
        data = source.binarized(read)
    source = source.of(read)
    if options.resume is not None:
        _check_unchanged(Run(out).source, read)
    return vae, data, source


def _train(tables: Tables, options: Trained, out: Path, command: list[str]) -> int:
    recipe, seed = options.recipe, experiment.settings(tables, "training").seed
    with recipes.running(recipe):
        vae, data, source = _made(tables, options, out)
        devices.place(vae)
        details = {"data": source.record, **_recorded(tables, source, recipe)}
        checkpoint = Checkpoint(out, seed=seed, command=command, **details)
        history = fitted(vae, data, tables, checkpoint, resume=options.resume)
        drawn = checkpoint.writing or not _has_figures(out)
        if history.epochs and drawn and not Ranks.present().rank:
            with alone():
                texts = data.vocabulary is not None
                figures = vae_figures(vae, _shown(data), data.shape, texts=texts)
            save_figures({"history": plots.history(history)} | figures, Run(out))
    again = f" --recipe {quote(str(recipe))}" if recipe and not is_known(vae.config) else ""
    _print_summary(out, history, again)
    if TERMINATED in history.ended:
        return SIGTERMED
    return INTERRUPTED if history.ended == "interrupted" else 0


def _has_figures(out: Path) -> bool:
    """Tell whether a training drew its figures at its end; that of its history is drawn before."""
    return any(path.name != "history.png" for path in (out / "figures").glob("*.png"))


def _shown(data: DataSet) -> Split:
    """Return the data that figures show, the test data if there are any."""
    return next(split for split in (data.test, data.validation, data.train) if len(split))


def _read(tables: Tables, *, download: bool) -> tuple[Source, DataSet]:
    """Return the data set of an experiment and what is read of it, before it is binarized."""
    settings = experiment.settings(tables, "data")
    source = Source(binarization=settings.binarization, reading=settings.reading).given(
        settings.name, settings.root and Path(settings.root)
    )
    source = replace(source, reading=settings.reading)
    return source, source.read_data(download=download)


def _check_unchanged(recorded: Source, data: DataSet) -> None:
    """Check that a training is resumed on the data that it began with.

    Raises:
        ValueError: if the training data are others.
    """
    content = recorded.content
    if content is not None and content.differs("train", data.train):
        raise ValueError(
            f"the training data of {data.name} changed since the training began: resume it on the "
            "same data, or begin a new run of the same experiment with --like"
        )


def _with_likelihood(tables: Tables, data: DataSet) -> Tables:
    """Return the tables with a likelihood, and print it if it is chosen by the data."""
    found = defaults.with_likelihood(tables, data)
    if data.table is not None:
        print(f"{data.table}\nLikelihood: that of each column, of the observed values")
        return found
    if found["likelihood"] != tables["likelihood"]:
        what = in_words(data.domain)
        if data.domain is constraints.unit_interval:
            what = "intensities in [0, 1], binarized at each use"
        net = found["guide"].get("net", {}) if found["guide"] != tables.get("guide") else {}
        logs = "; the guide's network takes log(1 + x)" if net.get("name") == "LogCounts" else ""
        print(f"Likelihood: {found['likelihood']['name']}, as the data are {what}{logs}")
    return found


def _leveled(data: DataSet, tables: Tables) -> DataSet:
    """Return images with whole levels, if the likelihood is of levels."""
    number = defaults.levels(tables["likelihood"])
    images = len(data.shape) == 3 and data.domain is constraints.unit_interval
    if number is None or not images or "binarization" in tables.get("data", {}):
        return data
    return data.leveled(number)


def _recorded(tables: Tables, source: Source, recipe: Path | None) -> dict[str, Any]:
    """Return the record of an experiment, with the recipe, if any, in place of the parts."""
    found = {**tables}
    if source.root is not None:  # as a whole path, for `--like` from another folder
        found["data"] = {**tables["data"], "root": source.root}
    if source.name is not None and not is_name(source.name):
        found["data"] = {**found["data"], "name": source.name}
    if recipe is None:
        return {"experiment": found}
    parts: Tables = {role: {} for role in ("prior", "likelihood", "guide", "net")}
    return {"experiment": found | parts, "recipe": recipes.record(recipe)}


def _print_summary(folder: Path, history: History, again: str) -> None:
    epochs = "epoch" if len(history.epochs) == 1 else "epochs"
    seconds = f"{sum(history.column('seconds')):.0f} s of steps"
    if history.compile_seconds:
        seconds += f" and {history.compile_seconds:.0f} s of compiling"
    kept = "" if history.kept == len(history.epochs) else f" (kept: epoch {history.kept})"
    kept += f", weights averaged {history.averaged}" if history.averaged else ""
    print(f"{folder}: {len(history.epochs)} {epochs}{kept}, {history.ended}; {seconds}")
    if history.epochs:
        print(f"Next:\n  pyrovae evaluate {quote(str(folder))}{again}")
    else:
        print("Nothing was trained: the run has its initial parameters.")


def fitted(
    vae: VAE,
    data: DataSet,
    tables: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    every: int = 1,
    resume: Path | None = None,
) -> History:
    """Train with a checkpoint after each epoch, and a progress line every `every` epochs."""
    settings = experiment.settings(tables, "training")
    objective = build.objective(tables["objective"], tables["prior"], len(data.train.x))
    if objective is not None:
        print(f"Objective: {objective}", flush=True)
    step = _step(settings, objective, tables.get("optimizer"), len(data.train))
    callbacks = [
        ProgressBar(every=every),
        *watching.callbacks(settings, data, checkpoint.folder),
        checkpoint,
        _forget_earlier_results(checkpoint.folder),
    ]
    # The error that follows has the same message in one line.
    with warnings.catch_warnings(), stopping_at_sigterm(checkpoint.folder) as terminated:
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)", UserWarning)
        return fit(
            vae,
            data.train,
            validation=data.validation if len(data.validation) else None,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            step=step,
            seed=settings.seed,
            callbacks=[*callbacks, terminated],
            resume=resume,
        )


def _step(settings: Training, objective: Any, table: Any, size: int) -> Step:
    nats = settings.free_bits
    joint = settings.batch_size * Ranks.present().world
    steps = settings.epochs * math.ceil(math.ceil(size / joint) / settings.accumulate)
    return Step(
        optim=optimizer.optimizer(table, settings, min(steps, settings.max_steps or steps)),
        loss=objective,
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
        kl_weight=schedules.parse(str(settings.kl_weight)),
        handlers=[] if nats is None else [pv.handlers.free_bits(nats)],
        compile=settings.compile,
        precision=settings.precision,
    )


def _forget_earlier_results(folder: Path) -> Callback:
    """Return a callback that removes the results of the parameters that are overwritten.

    Those of a resumed run hold until its first step.
    """

    class Forget(Callback):
        writes = True

        def started(self, training: Any) -> None:
            self.waits = bool(training.resumed)
            if not self.waits:
                _remove(folder, *RESULTS, "log.csv", "tensorboard/*")

        def stepped(self, training: Any) -> None:
            if self.waits:
                _remove(folder, *RESULTS)
                self.waits = False

    return Forget()


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
