"""What the commands of the command line do: each builds what a few lines of Python would build."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyro.optim
import torch

from pyrovae import folders, plots, schedules
from pyrovae.ais import AIS
from pyrovae.callbacks import Callback, Checkpoint, EarlyStopping, History, ProgressBar
from pyrovae.cli import catalogue
from pyrovae.cli import page as html_report
from pyrovae.cli.figures import (
    MEASURED,
    history_figure,
    report_figures,
    save_figures,
    vae_figures,
)
from pyrovae.cli.recipes import run as run_recipe
from pyrovae.cli.recipes import running
from pyrovae.cli.reopened import (
    EVALUATION,
    binarization_for,
    data_of_evaluation,
    data_of_run,
    data_set,
    evaluation_of,
    image_shape,
    load_run,
    place_of,
    record,
    remove_partial,
)
from pyrovae.comparison import compare as compare_reports
from pyrovae.data import DataSet, Split, seeded
from pyrovae.data import load as load_data
from pyrovae.evaluation import evaluate as measure
from pyrovae.findings import Diagnostic
from pyrovae.fingerprints import fingerprints
from pyrovae.gaps import Gaps
from pyrovae.handlers import free_bits
from pyrovae.latents import Latents
from pyrovae.parts import is_known
from pyrovae.report import Report
from pyrovae.runs import NEVER_TRAINED, Run, provenance, write_atomically
from pyrovae.saved_findings import SavedFinding
from pyrovae.sites import one_line
from pyrovae.training import Step, fit
from pyrovae.vae import VAE

INTERRUPTED: Final = 130
DEMO_LATENTS: Final = 8
DEMO_HIDDEN: Final = 200
_RECORDED: Final = (
    "epochs batch_size lr objective draws gradient kl_weight free_bits patience".split()
)


def demo(arguments: argparse.Namespace) -> int:
    """Train, measure and draw a small VAE on the digits that come with scikit-learn."""
    folder = arguments.out
    folders.refuse(folder, overwrite=_is_demo(folder))
    with folders.held(folder):
        return _demo(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    folder = arguments.out
    data = load_data("digits")
    print(
        f"Data: {len(data.train):,} handwritten digits of 8 x 8 pixels to train on, "
        f"{len(data.test)} to test on (scikit-learn's; no download).\n"
        f"Model: z ~ N(0, I), {DEMO_LATENTS} latents; x ~ Bernoulli(net(z)), one unit for each "
        f"pixel, drawn afresh at each use.\nGuide: q(z | x), a normal whose mean and scale a "
        f"network reads off x.\nTraining {arguments.epochs} epochs with pyro.infer.SVI ...",
        flush=True,
    )
    arguments.latents, arguments.hidden = DEMO_LATENTS, [DEMO_HIDDEN]
    vae = _network_vae(data, arguments)
    recorded = record(data, None, "dynamic")
    details = {"demo": True, "data": recorded}
    history = _fit(vae, data, arguments, details, every=max(1, arguments.epochs // 5))
    if history.ended == "interrupted":
        return complain("interrupted", INTERRUPTED)
    print(f"Measuring log p(x) from below with {arguments.particles:,} particles ...", flush=True)
    report = measure(vae, data.test, particles=arguments.particles, seed=arguments.seed)
    run, arguments.split, arguments.limit = Run(folder), "test", None
    _save_report(report, run, arguments, recorded)
    print(report)
    figures = vae_figures(vae, data.test, data.shape) | {"history": plots.history(history)}
    figures |= report_figures(report, vae, data.test.draw(), data.shape)
    save_figures(figures, run)
    print(
        f"\nThe run is in {folder}: the VAE, its history, its evaluation, and\n  "
        + "\n  ".join(str(path) for path in sorted((folder / "figures").glob("*.png")))
        + f"\n\nNext:\n  pyrovae sample {folder} -n 100 --out samples.png"
        f"\n  pyrovae report {folder}"
        f"\n  pyrovae evaluate {folder} --particles 5000 --ais 1000 --gaps --latents"
        f"\n  pyrovae train --data digits --guide full-rank --out runs/full-rank"
        f'\n  python -c "import pyrovae as pv; print(pv.load({str(folder)!r}))"'
    )
    return INTERRUPTED if report.partial else 0


def train(arguments: argparse.Namespace) -> int:
    """Train a VAE and keep it in a run's folder."""
    folders.refuse(arguments.out, overwrite=arguments.overwrite)
    with folders.held(arguments.out):
        # Again, now that no other process writes: one may have ended a run here meanwhile.
        folders.refuse(arguments.out, overwrite=arguments.overwrite)
        return _train(arguments)


def _train(arguments: argparse.Namespace) -> int:
    folder = arguments.out
    recipe, asked = arguments.recipe, arguments.binarization
    with running(recipe):
        data = data_set(arguments.data, arguments.root, asked or "dynamic")
        if recipe:
            vae = run_recipe(recipe, data.shape, seed=arguments.seed)
        else:
            vae = _network_vae(data, arguments)
        binarization = asked or binarization_for(vae)
        if binarization == "none" and asked is None:
            data = data_set(arguments.data, arguments.root, binarization)
        details: dict[str, Any] = {"data": record(data, arguments.root, binarization)}
        details["training"] = {name: getattr(arguments, name) for name in _RECORDED}
        if recipe:
            details["recipe"] = str(recipe.resolve())
        history = _fit(vae, data, arguments, details)
        if history.epochs:
            run = Run(folder)
            figures = vae_figures(vae, data.test, data.shape)
            save_figures({"history": plots.history(history)} | figures, run)
    again = f" --recipe {recipe}" if recipe and not is_known(vae.config) else ""
    epochs = "epoch" if len(history.epochs) == 1 else "epochs"
    seconds = f"{sum(history.column('seconds')):.0f} s of steps"
    if history.compile_seconds:
        seconds += f" and {history.compile_seconds:.0f} s of compiling"
    kept = "" if history.kept == len(history.epochs) else f" (kept: epoch {history.kept})"
    print(f"{folder}: {len(history.epochs)} {epochs}{kept}, {history.ended}; {seconds}")
    if history.epochs:
        print(f"Next:\n  pyrovae evaluate {folder}{again}")
    else:
        print("Nothing was trained: the run holds the parameters that it started with.")
    return INTERRUPTED if history.ended == "interrupted" else 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print a run's report with what was found besides, and keep both in the folder."""
    diagnostics = _diagnostics(arguments)
    vae, config = load_run(arguments)
    recorded, split = data_of_run(arguments, config.get("data") or {}, vae)
    run = Run(arguments.folder)
    run.check_writable()
    with running(arguments.recipe):
        report = measure(
            vae,
            split,
            particles=arguments.particles,
            ks=arguments.ks,
            seed=arguments.seed,
            compile=arguments.compile,
            diagnostics=diagnostics,
        )
        if not run.metrics:
            report = replace(report, notes=(NEVER_TRAINED,))
        path = _save_report(report, run, arguments, recorded)
        print(report)
        print(f"written: {path}")
        if path.name == EVALUATION:
            x = split.draw()[: len(report.elbo.value)]
            figures = report_figures(report, vae, x, image_shape(recorded, None))
            save_figures(figures, run, in_place_of=MEASURED)
            print(f"figures in {run.folder / 'figures'}: {', '.join(figures)}")
        else:
            print(
                f"kept: {run.folder / EVALUATION}, which is complete, and its figures: `pyrovae "
                "report` and `pyrovae compare` go by it"
            )
    again = f" --recipe {arguments.recipe}" if arguments.recipe else ""
    print(f"Next:\n  pyrovae report {run.folder}{again}")
    return INTERRUPTED if report.partial else 0


def compare(arguments: argparse.Namespace) -> int:
    """Print how two evaluated runs differ, and draw it."""
    folders = [folder.resolve() for folder in arguments.folders]
    a, b = (folder.name for folder in folders)
    names = (a, b) if a != b else (str(folders[0]), str(folders[1]))
    reports = [evaluation_of(folder) for folder in arguments.folders]
    found = compare_reports(*reports, names=names)
    print(found)
    for name, saved in zip(names, reports, strict=True):
        if saved.said["partial"]:
            print(f"An interrupt cut the evaluation of {name} short.")
    arguments.folder = arguments.folders[0]
    return _write_figure(plots.comparison(found), arguments, f"comparison-with-{b}")


def report(arguments: argparse.Namespace) -> int:
    """Write what is known of a run as one page."""
    run = Run(arguments.folder)
    saved = evaluation_of(run.folder)
    vae, config = load_run(arguments)
    recorded = data_of_evaluation(saved, config)
    arguments.split, arguments.limit = recorded["split"], None
    with running(arguments.recipe):
        split, left_out = _measured_data(arguments, recorded, vae, saved)
        figures = history_figure(run)
        x = None if split is None else split.draw()
        shape = None
        with contextlib.suppress(ValueError), seeded(0):
            shape = image_shape(recorded, lambda: vae.sample(1))
            figures |= vae_figures(vae, split, shape)
        figures |= report_figures(saved, vae, x, shape)
    page = html_report.page(run, saved, figures, left_out=left_out)
    path = arguments.out or run.folder / "report.html"
    write_atomically(path, page.encode())
    print(f"written: {path}")
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """Draw what the prior of a run generates."""
    vae, config = load_run(arguments)
    with running(arguments.recipe), seeded(arguments.seed):
        shape = image_shape(config.get("data") or {}, lambda: vae.sample(1))
        figure = plots.samples(vae, arguments.number, shape)
    return _write_figure(figure, arguments, "samples")


def reconstruct(arguments: argparse.Namespace) -> int:
    """Draw data beside their reconstructions."""
    arguments.limit = arguments.number
    vae, config = load_run(arguments)
    recorded, split = data_of_run(arguments, config.get("data") or {}, vae)
    with running(arguments.recipe), seeded(arguments.seed):
        x = split.draw(seed=arguments.seed)
        figure = plots.reconstructions(vae, x, image_shape(recorded, None))
    return _write_figure(figure, arguments, "reconstructions")


def _diagnostics(arguments: argparse.Namespace) -> list[Diagnostic]:
    """Return what is measured besides, with the settings that were given."""
    first = {} if arguments.diagnose is None else {"data": arguments.diagnose}
    start = {} if arguments.ais_start is None else {"start": arguments.ais_start}
    if start and not arguments.ais:
        raise ValueError("--ais-start says where the chains of --ais start: give --ais T")
    if first and not (arguments.ais or arguments.gaps):
        raise ValueError("--diagnose is the data of --ais and --gaps: give one of these")
    found: list[Diagnostic] = []
    if arguments.ais:
        found.append(AIS(arguments.ais, **first, **start))
    if arguments.gaps:
        found.append(Gaps(**first))
    if arguments.latents:
        found.append(Latents())
    return found


def _measured_data(
    arguments: argparse.Namespace, recorded: dict[str, Any], vae: VAE, saved: SavedFinding
) -> tuple[Split | None, list[str]]:
    """Return the data of an evaluation, if they can be found, or why they are not shown."""
    if arguments.data is None and recorded["name"] is None:
        return None, ["The files record no data set, so no data are shown: name it with --data."]
    arguments.limit = saved.said["data"]
    _, split = data_of_run(arguments, recorded, vae)
    met, x = saved.fingerprint, split.draw()
    if met is not None and not torch.equal(met[:, 0], fingerprints(x)[:, 0]):
        name = arguments.data or recorded["name"]
        return None, [f"The data of {name} are not those of the evaluation, and are not shown."]
    return split, []


def _network_vae(data: DataSet, arguments: argparse.Namespace) -> VAE:
    """Return a VAE of tanh networks, its weights drawn at the seed, its mean that of the data."""
    if (arguments.prior == "sphere") != (arguments.guide == "power-spherical"):
        raise ValueError(
            f"prior 'sphere' and guide 'power-spherical' go together; got {arguments.prior} and "
            f"{arguments.guide}"
        )
    plan = catalogue.Plan(arguments.latents, tuple(arguments.hidden), data.train.x)
    with seeded(arguments.seed):
        likelihood = _part("likelihood", arguments, plan).start_at_mean(data.train.x)
        guide = _part("guide", arguments, plan)
        return VAE(_part("prior", arguments, plan, guide), likelihood, guide)


def _objective(arguments: argparse.Namespace) -> Any:
    particles = arguments.draws
    if particles is None and arguments.objective != "elbo":
        raise ValueError(f"the objective {arguments.objective} needs --particles K")
    objective = _part("objective", arguments, catalogue.Aim(particles or 1, arguments.gradient))
    if objective is not None:
        print(f"Objective: {objective}", flush=True)
    return objective


def _part(role: str, arguments: argparse.Namespace, *shared: Any) -> Any:
    options = catalogue.chosen(role, vars(arguments))
    return catalogue.make(role, getattr(arguments, role), options, *shared)


def _fit(
    vae: VAE,
    data: DataSet,
    arguments: argparse.Namespace,
    details: dict[str, Any],
    *,
    every: int = 1,
) -> History:
    """Train with a checkpoint after each epoch; a bar tells of every so many epochs."""
    nats = arguments.free_bits
    step = Step(
        optim=pyro.optim.Adam({"lr": arguments.lr}),
        loss=_objective(arguments),
        kl_weight=schedules.parse(arguments.kl_weight),
        handlers=[] if nats is None else [free_bits(nats)],
        compile=arguments.compile,
    )
    checkpoint = Checkpoint(
        arguments.out, seed=arguments.seed, command=arguments.command_line, **details
    )
    callbacks = [ProgressBar(every=every), checkpoint, _forget_earlier_results(arguments.out)]
    if arguments.patience:
        callbacks.insert(1, EarlyStopping(arguments.patience))
    with warnings.catch_warnings():  # the error that follows says it in one line
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)", UserWarning)
        return fit(
            vae,
            data.train,
            validation=data.validation,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            step=step,
            seed=arguments.seed,
            callbacks=callbacks,
        )


def _forget_earlier_results(folder: Path) -> Callback:
    """Return a callback that removes the results of the parameters that are written over."""

    class Forget(Callback):
        def started(self, training: Any) -> None:
            for pattern in ("evaluation.*", "figures/*.png", "report.html"):
                for path in folder.glob(pattern):
                    path.unlink()

    return Forget()


def _save_report(
    report: Report, run: Run, arguments: argparse.Namespace, recorded: dict[str, Any]
) -> Path:
    """Write the report, with what made it and what it was measured on; return where it is.

    A complete one ends what an interrupt left of an earlier one, as it ends an earlier complete
    one: a run has one evaluation, and at most one begun after it.
    """
    path = place_of(report, run.folder)
    source = {name: recorded[name] for name in ("root", "binarization", "shape")}
    report.save(
        path,
        **{**provenance(), "command": arguments.command_line},
        data_set=recorded["name"],
        split=arguments.split,
        limit=arguments.limit,
        run=run.config.get("run"),
        **source,
    )
    removed = None if report.partial else remove_partial(run.folder)
    if removed:
        print(f"removed: {removed}, an earlier one that an interrupt ended")
    if path.name == EVALUATION:
        for old in (run.folder / "report.html", *run.folder.glob("figures/comparison-with-*.png")):
            if old.exists():
                old.unlink()
                print(f"removed: {old}, of the evaluation before")
    return path


def _write_figure(figure: Any, arguments: argparse.Namespace, name: str) -> int:
    path = arguments.out or Run(arguments.folder).figure(name)
    plots.save(figure, path)
    print(f"written: {path}")
    return 0


def _is_demo(folder: Path) -> bool:
    with contextlib.suppress(ValueError):
        return bool(Run(folder).config.get("demo"))
    return False


def complain(error: BaseException | str, code: int) -> int:
    """Say what is wrong in one line on stderr, and return the exit code."""
    print(f"pyrovae: error: {one_line(error)}", file=sys.stderr)
    return code
