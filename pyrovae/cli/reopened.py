"""A run opened again by the command line: its VAE, and the data that it records."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch.distributions import constraints

from pyrovae import runs, schemas
from pyrovae.cli.recipes import run as run_recipe
from pyrovae.cli.recipes import running
from pyrovae.data import DataSet, Split
from pyrovae.data import load as load_data
from pyrovae.mosaics import Shape
from pyrovae.parts import is_known
from pyrovae.report import Report
from pyrovae.runs import Run
from pyrovae.saved_findings import SavedFinding, read_report
from pyrovae.vae import VAE

EVALUATION: Final = "evaluation.json"
PARTIAL: Final = "evaluation.partial.json"
"""Where a partial evaluation goes if there is a complete one, which is what the commands read."""


def load_run(arguments: argparse.Namespace) -> tuple[VAE, dict[str, Any]]:
    """Rebuild a run's VAE; programs of the user's own come from the recipe, never the folder.

    Raises:
        ValueError: if there is no run, or it has programs of the user's own and no recipe is
            given.
    """
    folder, recipe = arguments.folder, arguments.recipe
    config = Run(folder).config
    try:
        config["data"] = schemas.data(config.get("data"))
    except ValueError as error:
        raise ValueError(f"the run in {folder} records its data otherwise: {error}") from error
    if recipe:
        shape = image_shape(config.get("data") or {}, None)
        with running(recipe):
            vae = run_recipe(recipe, shape, seed=arguments.seed)
        parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
        return _defined(runs.load(folder, **parts), folder), config
    if not is_known(config["vae"]):
        again = f"add --recipe {config.get('recipe', 'FILE.py, whose vae(shape) makes them')}"
        raise ValueError(
            f"the run in {folder} has programs of your own, and a run's folder holds no code: "
            + again
        )
    return _defined(runs.load(folder), folder), config


def _defined(vae: VAE, folder: Path) -> VAE:
    """Refuse parameters that are NaN, with which every measurement fails in words of its own."""
    names = [name for name, tensor in vae.state_dict().items() if tensor.isnan().any()]
    if names:
        raise ValueError(
            f"the model in {folder} is NaN in {len(names)} tensors, the first {names[0]!r}: its "
            "training diverged, or the file is damaged; train again, at a smaller rate"
        )
    return vae


def data_of_run(
    arguments: argparse.Namespace, recorded: Mapping[str, Any], vae: VAE
) -> tuple[dict[str, Any], Split]:
    """Return what is to be recorded of the data that a run was trained on, and their split.

    Raises:
        ValueError: if the run records no data set, and none is named.
    """
    name = arguments.data or recorded.get("name")
    if name is None:
        raise ValueError(
            f"the run in {arguments.folder} records no data set: say which with --data"
        )
    root = arguments.root or recorded.get("root")
    binarization = recorded.get("binarization") or binarization_for(vae)
    data = data_set(name, root, binarization, download=arguments.root is not None)
    trained = recorded.get("shape")
    if trained is not None and tuple(trained) != tuple(data.shape):
        raise ValueError(
            f"the run was trained on {recorded['name']}, {tuple(trained)}; {name} has images of "
            f"{tuple(data.shape)}: a VAE measures data of the shape that it was made for"
        )
    split: Split = getattr(data, arguments.split)
    if arguments.limit:
        rows = slice(arguments.limit)
        split = dataclasses.replace(split, x=split.x[rows], labels=split.labels[rows])
    return record(data, root, binarization), split


def evaluation_of(folder: Path) -> SavedFinding:
    """Read the evaluation of a run.

    Raises:
        ValueError: if there is no run, it was not evaluated, or not by this version.
    """
    path = folder / EVALUATION
    if not path.exists():
        _ = Run(folder).config  # which says so where there is no run either
        raise ValueError(f"the run in {folder} has no evaluation: run `pyrovae evaluate {folder}`")
    saved = read_report(path)
    if (folder / "config.json").exists() and saved.said.get("run") not in (
        None,
        Run(folder).config.get("run"),
    ):
        raise ValueError(
            f"{path} is of a run that was written over since: run `pyrovae evaluate {folder}`"
        )
    missing = {"title", "verdict", "partial", "data"} - saved.said.keys()
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(sorted(missing))}, as another version wrote it: run "
            f"`pyrovae evaluate {folder}`"
        )
    return saved


def place_of(report: Report, folder: Path) -> Path:
    """Return where a report is written: a partial one beside a complete one, never over it."""
    beside = report.partial and _holds_complete(folder)
    return folder / (PARTIAL if beside else EVALUATION)


def remove_partial(folder: Path) -> Path | None:
    """Remove what an interrupt left of an earlier evaluation; return where it was, if it was."""
    path = folder / PARTIAL
    there = path.exists()
    for file in (path, path.with_suffix(".safetensors")):
        file.unlink(missing_ok=True)
    return path if there else None


def _holds_complete(folder: Path) -> bool:
    try:
        return not evaluation_of(folder).partial
    except ValueError:
        return False


def data_of_evaluation(saved: SavedFinding, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of the data of an evaluation: else of the training's test data."""
    said, trained = saved.said, config.get("data") or {}
    if "data_set" not in said:
        return {"name": None, "split": "test", **trained}
    names = ("root", "binarization", "shape", "split")
    return {"name": said["data_set"], **{name: said.get(name) for name in names}}


def data_set(
    name: str, root: Path | str | None, binarization: str, *, download: bool = True
) -> DataSet:
    """Load a data set, binarised as it is recorded.

    A place that a run's folder names is read and never written: nothing is downloaded there.
    """
    drawn: Any = None if binarization == "none" else binarization
    return load_data(name, root, binarization=drawn, download=download)


def record(data: DataSet, root: Path | str | None, binarization: str) -> dict[str, Any]:
    """Return what finds the data again."""
    return {
        "name": data.name,
        "root": None if root is None else str(Path(root).resolve()),
        "binarization": binarization,
        "shape": list(data.shape),
    }


def binarization_for(vae: VAE) -> str:
    """Return what suits the likelihood: intensities are drawn as 0 or 1 for binary data."""
    domain = getattr(vae.likelihood, "domain", None)
    return "dynamic" if domain in (None, constraints.boolean) else "none"


def image_shape(recorded: Mapping[str, Any], draw: Callable[[], Any] | None) -> Shape:
    """Return the recorded shape of an image; else that of a square image as large as a draw.

    Raises:
        ValueError: if none is recorded, and a draw is no square.
    """
    if recorded.get("shape"):
        channels, height, width = recorded["shape"]
        return channels, height, width
    if draw is not None:
        size = draw()[0].numel()
        side = math.isqrt(size)
        if side * side == size:
            return 1, side, side
    raise ValueError("the run records no shape of an image: it was not made by `pyrovae train`")
