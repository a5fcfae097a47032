"""What the commands of the command line do: each builds what a few lines of Python would build."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyro.optim
from torch.distributions import constraints

from pyrovae import catalogue, plots, runs, schedules
from pyrovae.callbacks import Callback, Checkpoint, EarlyStopping, History, ProgressBar
from pyrovae.data import DataSet, Split, seeded
from pyrovae.data import load as load_data
from pyrovae.evaluation import evaluate as measure
from pyrovae.handlers import free_bits
from pyrovae.parts import is_known
from pyrovae.recipes import one_line, running
from pyrovae.recipes import run as run_recipe
from pyrovae.runs import Run
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
    _refuse_a_run(folder, overwrite=_is_demo(folder))
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
    details = {"demo": True, "data": _record(data, None, "dynamic")}
    history = _fit(vae, data, arguments, details, every=max(1, arguments.epochs // 5))
    if history.ended == "interrupted":
        return complain("interrupted", INTERRUPTED)
    print(f"Measuring log p(x) from below with {arguments.particles:,} particles ...", flush=True)
    report = measure(vae, data.test, particles=arguments.particles, seed=arguments.seed)
    print(report)
    _save_report(report, folder, {"data_set": "digits", "split": "test"})
    _save_training_figures(vae, history, data, folder)
    print(
        f"\nThe run is in {folder}: the VAE, its history, its evaluation, and\n  "
        + "\n  ".join(str(path) for path in sorted((folder / "figures").glob("*.png")))
        + f"\n\nNext:\n  pyrovae sample {folder} -n 100 --out samples.png"
        f"\n  pyrovae evaluate {folder} --particles 5000"
        f"\n  pyrovae train --data digits --guide full-rank --out runs/full-rank"
        f'\n  python -c "import pyrovae as pv; print(pv.load({str(folder)!r}))"'
    )
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train a VAE and keep it in a run's folder."""
    folder = arguments.out
    _refuse_a_run(folder, overwrite=arguments.overwrite)
    recipe, asked = arguments.recipe, arguments.binarization
    with running(recipe):
        data = _data(arguments.data, arguments.root, asked or "dynamic")
        if recipe:
            vae = run_recipe(recipe, data.shape, seed=arguments.seed)
        else:
            vae = _network_vae(data, arguments)
        binarization = asked or _binarization_for(vae)
        if binarization == "none" and asked is None:
            data = _data(arguments.data, arguments.root, binarization)
        details: dict[str, Any] = {"data": _record(data, arguments.root, binarization)}
        details["training"] = {name: getattr(arguments, name) for name in _RECORDED}
        if recipe:
            details["recipe"] = str(recipe.resolve())
        history = _fit(vae, data, arguments, details)
        if history.epochs:
            _save_training_figures(vae, history, data, folder)
    again = f" --recipe {recipe}" if recipe and not is_known(vae.config) else ""
    epochs = "epoch" if len(history.epochs) == 1 else "epochs"
    seconds = f"{sum(history.column('seconds')):.0f} s of steps"
    if history.compile_seconds:
        seconds += f" and {history.compile_seconds:.0f} s of compiling"
    print(f"{folder}: {len(history.epochs)} {epochs}, {history.ended}; {seconds}")
    print(f"Next:\n  pyrovae evaluate {folder}{again}")
    return INTERRUPTED if history.ended == "interrupted" else 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print a run's report and keep it in the folder."""
    vae, config = _load_run(arguments)
    name, split, _ = _data_of_run(arguments, config, vae)
    with running(arguments.recipe):
        report = measure(
            vae,
            split,
            particles=arguments.particles,
            ks=arguments.ks,
            seed=arguments.seed,
            compile=arguments.compile,
        )
    print(report)
    _save_report(report, arguments.folder, {"data_set": name, "split": arguments.split})
    print(f"written: {arguments.folder / 'evaluation.json'}")
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """Draw what the prior of a run generates."""
    vae, config = _load_run(arguments)
    with running(arguments.recipe), seeded(arguments.seed):
        shape = _image_shape(config, lambda: vae.sample(1))
        figure = plots.samples(vae, arguments.number, shape)
    return _write_figure(figure, arguments, "samples")


def reconstruct(arguments: argparse.Namespace) -> int:
    """Draw data beside their reconstructions."""
    arguments.limit = arguments.number
    vae, config = _load_run(arguments)
    _, split, shape = _data_of_run(arguments, config, vae)
    with running(arguments.recipe), seeded(arguments.seed):
        x = split.draw(seed=arguments.seed)
        figure = plots.reconstructions(vae, x, shape)
    return _write_figure(figure, arguments, "reconstructions")


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
            for pattern in ("evaluation.json", "evaluation.safetensors", "figures/*.png"):
                for path in folder.glob(pattern):
                    path.unlink()

    return Forget()


def _save_training_figures(vae: VAE, history: History, data: DataSet, folder: Path) -> None:
    run = Run(folder)
    with seeded(0):
        x = data.test.draw(seed=0)
        figures = {
            "history": plots.history(history),
            "reconstructions": plots.reconstructions(vae, x[:20], data.shape),
            "samples": plots.samples(vae, 100, data.shape),
        }
        with contextlib.suppress(ValueError):  # a guide of several sites has no one latent map
            figures["latents"] = plots.latent_map(vae, x[:2000], data.test.labels[:2000])
    for name, figure in figures.items():
        plots.save(figure, run.figure(name))


def _save_report(report: Any, folder: Path, details: dict[str, Any]) -> None:
    """Write the report, beside what it was measured on, and its figure."""
    report.save(folder / "evaluation.json", **details)
    if report.iwae:
        figure = plots.bounds(report)
        plots.save(figure, Run(folder).figure("bounds"))


def _write_figure(figure: Any, arguments: argparse.Namespace, name: str) -> int:
    path = arguments.out or Run(arguments.folder).figure(name)
    plots.save(figure, path)
    print(f"written: {path}")
    return 0


def _refuse_a_run(folder: Path, *, overwrite: bool) -> None:
    if (folder / "config.json").exists() and not overwrite:
        raise ValueError(
            f"{folder} holds a run already: choose another folder with --out, or --overwrite it"
        )


def _is_demo(folder: Path) -> bool:
    with contextlib.suppress(ValueError):
        return bool(Run(folder).config.get("demo"))
    return False


def _load_run(arguments: argparse.Namespace) -> tuple[VAE, dict[str, Any]]:
    """Rebuild a run's VAE; programs of the user's own come from the recipe, never the folder."""
    folder, recipe = arguments.folder, arguments.recipe
    config = Run(folder).config
    if recipe:
        shape = _image_shape(config, None)
        with running(recipe):
            vae = run_recipe(recipe, shape, seed=arguments.seed)
        parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
        return runs.load(folder, **parts), config
    if not is_known(config["vae"]):
        again = f"add --recipe {config.get('recipe', 'FILE.py, whose vae(shape) makes them')}"
        raise ValueError(
            f"the run in {folder} has programs of your own, and a run's folder holds no code: "
            + again
        )
    return runs.load(folder), config


def _data_of_run(
    arguments: argparse.Namespace, config: dict[str, Any], vae: VAE
) -> tuple[str, Split, tuple[int, int, int]]:
    """Return the name, the split and the shape of the data that the run was trained on."""
    recorded = config.get("data") or {}
    name = arguments.data or recorded.get("name")
    if name is None:
        raise ValueError(
            f"the run in {arguments.folder} records no data set: say which with --data"
        )
    root = arguments.root or recorded.get("root")
    data = _data(name, root, recorded.get("binarization") or _binarization_for(vae))
    split: Split = getattr(data, arguments.split)
    if arguments.limit:
        rows = slice(arguments.limit)
        split = dataclasses.replace(split, x=split.x[rows], labels=split.labels[rows])
    return name, split, data.shape


def _record(data: DataSet, root: Path | None, binarization: str) -> dict[str, Any]:
    return {
        "name": data.name,
        "root": None if root is None else str(root.resolve()),
        "binarization": binarization,
        "shape": list(data.shape),
    }


def _binarization_for(vae: VAE) -> str:
    """Return what suits the likelihood: intensities are drawn as 0 or 1 for binary data."""
    domain = getattr(vae.likelihood, "domain", None)
    return "dynamic" if domain in (None, constraints.boolean) else "none"


def _image_shape(config: dict[str, Any], draw: Callable[[], Any] | None) -> tuple[int, int, int]:
    """Return the recorded shape of an image; else that of a square image as large as a draw."""
    recorded = (config.get("data") or {}).get("shape")
    if recorded:
        channels, height, width = recorded
        return channels, height, width
    if draw is not None:
        size = draw()[0].numel()
        side = math.isqrt(size)
        if side * side == size:
            return 1, side, side
    raise ValueError("the run records no shape of an image: it was not made by `pyrovae train`")


def _data(name: str, root: Path | None, binarization: str) -> DataSet:
    drawn: Any = None if binarization == "none" else binarization
    return load_data(name, root, binarization=drawn)


def complain(error: BaseException | str, code: int) -> int:
    """Say what is wrong in one line on stderr, and return the exit code."""
    print(f"pyrovae: error: {one_line(error)}", file=sys.stderr)
    return code
