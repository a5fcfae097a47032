"""Run `pyrovae demo` and `pyrovae train`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyro.optim

from pyrovae import plots
from pyrovae.cli import build, devices, experiment, recipes
from pyrovae.cli.complaints import INTERRUPTED, complain
from pyrovae.cli.evaluations import save_report
from pyrovae.cli.experiment import Tables, Training
from pyrovae.cli.figures import report_figures, save_figures, vae_figures
from pyrovae.cli.grammar import ALIASES, Trained
from pyrovae.data import DataSet
from pyrovae.data.ranks import Ranks, alone
from pyrovae.measure.evaluate import evaluate as measure
from pyrovae.objectives.handlers import free_bits
from pyrovae.parts import is_known
from pyrovae.runs import Run
from pyrovae.runs import folder as folders
from pyrovae.runs.sources import Source, binarization_for
from pyrovae.train import schedules
from pyrovae.train.callbacks import Callback, EarlyStopping, History, ProgressBar
from pyrovae.train.checkpoint import Checkpoint
from pyrovae.train.fit import Step, fit
from pyrovae.vae import VAE

__all__ = ["demo", "train"]

DEMO: Final[Tables] = {
    "prior": {"latents": 8},
    "net": {"hidden": [200]},
    "data": {"binarization": "dynamic"},
    "training": {"batch_size": 50, "lr": 4e-3},
}


def demo(out: Path, *, epochs: int, particles: int, command: Sequence[str]) -> int:
    """Train and evaluate a small VAE on scikit-learn's digits, and draw its figures."""
    tables = experiment.layered([DEMO, {"training": {"epochs": epochs}}])
    folders.refuse(out, overwrite=_is_demo(out))
    with folders.held(out):
        source = Source("digits", binarization="dynamic")
        data = source.load()
        print(
            f"Data: {len(data.train):,} handwritten digits of 8 x 8 pixels to train on, "
            f"{len(data.test)} to test on (scikit-learn's; no download).\n"
            f"Model: z ~ N(0, I), {DEMO['prior']['latents']} latents; x ~ Bernoulli(net(z)), one "
            f"unit for each pixel, drawn afresh at each use.\nGuide: q(z | x), a normal whose "
            f"mean and scale a network reads off x.\nTraining {epochs} epochs with pyro.infer.SVI "
            "...",
            flush=True,
        )
        vae = build.vae(tables, data)
        source = replace(source, shape=data.shape)
        details: dict[str, Any] = {"demo": True, "data": source.record, "experiment": tables}
        checkpoint = Checkpoint(out, seed=0, command=list(command), **details)
        history = _fit(vae, data, tables, checkpoint, every=max(1, epochs // 5))
        if history.ended == "interrupted":
            return complain("interrupted", INTERRUPTED)
        print(f"Measuring log p(x) from below with {particles:,} particles ...", flush=True)
        report = measure(vae, data.test, particles=particles, seed=0)
        run = Run(out)
        save_report(report, run, source, split="test", command=list(command))
        print(report)
        figures = vae_figures(vae, data.test, data.shape) | {"history": plots.history(history)}
        figures |= report_figures(report, vae, data.test.draw(), data.shape)
        save_figures(figures, run)
    print(_after_demo(out))
    return INTERRUPTED if report.partial else 0


def _after_demo(folder: Path) -> str:
    figures = "\n  ".join(str(path) for path in sorted((folder / "figures").glob("*.png")))
    return (
        f"\nThe run is in {folder}: the VAE, its history, its evaluation, and\n  {figures}"
        f"\n\nNext:\n  pyrovae sample {folder} -n 100 --out samples.png"
        f"\n  pyrovae report {folder}"
        f"\n  pyrovae evaluate {folder} --particles 5000 --ais 1000 --gaps --latents"
        f"\n  pyrovae train --data digits --guide FullRankNormal --out runs/full-rank"
        f'\n  python -c "import pyrovae as pv; print(pv.load({str(folder)!r}))"'
    )


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
    tables = asked(file, options, entries)
    if devices.is_started():
        with devices.joined():
            return _train_into_folder(tables, options, command)
    folders.refuse(options.out, overwrite=options.overwrite)
    if options.devices > 1:
        return devices.launch(options.devices, command)
    return _train_into_folder(tables, options, command)


def _train_into_folder(tables: Tables, options: Trained, command: Sequence[str]) -> int:
    """Train in a folder that no other training writes to."""
    if Ranks.present().rank:
        return _train(tables, options, list(command))
    with folders.held(options.out):
        # Check again under the lock: another process may have finished a run in the meantime.
        folders.refuse(options.out, overwrite=options.overwrite)
        return _train(tables, options, list(command))


def asked(file: Path | None, options: Trained, entries: Sequence[tuple[str, Any]]) -> Tables:
    """Return the experiment: options override the file, which overrides the earlier run.

    Raises:
        ValueError: naming the entry that is invalid.
    """
    if file is not None and options.config is not None:
        raise ValueError(f"two experiments were given, {file} and {options.config}: give one")
    file = file or options.config
    layers = []
    if options.like is not None:
        layers.append(_experiment_of(options.like, options.recipe))
    if file is not None:
        layers.append(experiment.read(file))
    given: Tables = {}
    for name, entry in ALIASES.items():
        value = getattr(options, name)
        if value is not None:
            experiment.set_option(given, entry, str(value) if name == "root" else value)
    if options.no_compile:
        experiment.set_option(given, "training.compile", value=False)
    for entry, value in entries:
        experiment.set_option(given, entry, value)
    tables = experiment.layered([*layers, experiment.checked(given)])
    for table in experiment.SETTINGS:
        experiment.settings(tables, table)
    return tables


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


def _train(tables: Tables, options: Trained, command: list[str]) -> int:
    recipe, settings = options.recipe, experiment.settings(tables, "training")
    data_settings = experiment.settings(tables, "data")
    with recipes.running(recipe):
        source = Source(binarization=data_settings.binarization).given(
            data_settings.name, data_settings.root and Path(data_settings.root)
        )
        download = options.root is not None or options.like is None
        data = source.load(download=download)
        if recipe:
            vae = recipes.run(recipe, data.shape, seed=settings.seed)
        else:
            vae = build.vae(tables, data, seed=settings.seed)
        if source.binarization is None:
            source = replace(source, binarization=binarization_for(vae))
            data = source.load(download=download)
        source = replace(source, shape=data.shape)
        devices.place(vae)
        details = {"data": source.record, **_recorded(tables, source, recipe)}
        checkpoint = Checkpoint(options.out, seed=settings.seed, command=command, **details)
        history = _fit(vae, data, tables, checkpoint)
        if history.epochs and not Ranks.present().rank:
            with alone():
                figures = vae_figures(vae, data.test, data.shape)
            save_figures({"history": plots.history(history)} | figures, Run(options.out))
    again = f" --recipe {recipe}" if recipe and not is_known(vae.config) else ""
    _print_summary(options.out, history, again)
    return INTERRUPTED if history.ended == "interrupted" else 0


def _recorded(tables: Tables, source: Source, recipe: Path | None) -> dict[str, Any]:
    """Return the record of an experiment, with the recipe, if any, in place of the parts."""
    found = {**tables}
    if source.root is not None:  # as a whole path, for `--like` from another folder
        found["data"] = {**tables["data"], "root": source.root}
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
    print(f"{folder}: {len(history.epochs)} {epochs}{kept}, {history.ended}; {seconds}")
    if history.epochs:
        print(f"Next:\n  pyrovae evaluate {folder}{again}")
    else:
        print("Nothing was trained: the run has its initial parameters.")


def _fit(
    vae: VAE,
    data: DataSet,
    tables: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    every: int = 1,
) -> History:
    """Train with a checkpoint after each epoch, and a progress line every `every` epochs."""
    settings = experiment.settings(tables, "training")
    objective = build.objective(tables["objective"], tables["prior"], len(data.train.x))
    if objective is not None:
        print(f"Objective: {objective}", flush=True)
    step = _step(settings, objective)
    callbacks = [ProgressBar(every=every), checkpoint, _forget_earlier_results(checkpoint.folder)]
    if settings.patience:
        callbacks.insert(1, EarlyStopping(settings.patience))
    with warnings.catch_warnings():  # The error that follows has the same message in one line.
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)", UserWarning)
        return fit(
            vae,
            data.train,
            validation=data.validation,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            step=step,
            seed=settings.seed,
            callbacks=callbacks,
        )


def _step(settings: Training, objective: Any) -> Step:
    nats = settings.free_bits
    return Step(
        optim=pyro.optim.Adam({"lr": settings.lr}),
        loss=objective,
        kl_weight=schedules.parse(str(settings.kl_weight)),
        handlers=[] if nats is None else [free_bits(nats)],
        compile=settings.compile,
    )


def _forget_earlier_results(folder: Path) -> Callback:
    """Return a callback that removes the results of the run that is overwritten."""

    class Forget(Callback):
        writes = True

        def started(self, training: Any) -> None:
            for pattern in ("evaluation.*", "figures/*.png", "report.html"):
                for path in folder.glob(pattern):
                    path.unlink()

    return Forget()


def _is_demo(folder: Path) -> bool:
    with contextlib.suppress(ValueError):
        return bool(Run(folder).config.get("demo"))
    return False
