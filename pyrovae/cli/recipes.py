"""Run recipes, Python files of the user whose function `vae(shape)` returns a VAE.

A recipe runs only if it is given on the command line. A run records the path and the hash of its
recipe for display, and never runs that path.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyrovae.data import Vocabulary
from pyrovae.parts import is_known
from pyrovae.randomness import seeded
from pyrovae.runs.run import Run
from pyrovae.train.fit import NonFiniteLoss
from pyrovae.vae import VAE
from pyrovae.weights.sites import one_line

__all__ = ["described", "load_vae", "record", "run", "running", "warn_if_changed"]


def record(path: Path) -> dict[str, str]:
    """Return the path of a recipe and the hash of its content, which a run records."""
    path = path.resolve()
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def load_vae(run_: Run, recipe: Path | None, shape: tuple[int, ...] | None) -> VAE:
    """Rebuild a run's VAE, with the user's own programs from a recipe.

    Args:
        run_: the run.
        recipe: the file, if one was given.
        shape: (channels, height, width) of an image, (D,), or (T, D) of sequences, the argument
            of the recipe. A recipe for texts takes the run's vocabulary, too.

    Raises:
        ValueError: if there is no run, if it has programs of the user and no recipe is given, or
            as `run`.
    """
    config = run_.config
    made_by = config.get("recipe")
    if recipe is None:
        if is_known(config["vae"]):
            return run_.load_vae()
        wanted = described(made_by) if made_by else "a FILE.py whose vae(shape) makes them"
        raise ValueError(
            f"the run in {run_.folder} has programs of your own, and its folder contains no "
            f"code: add --recipe with {wanted}"
        )
    if shape is None:
        raise ValueError(
            "the run records no shape of an image: it was not made by `pyrovae train`"
        )
    with running(recipe):
        vae = run(recipe, shape, seed=0, vocabulary=run_.vocabulary)
    warn_if_changed(recipe, made_by)
    return run_.load_vae(prior=vae.prior, likelihood=vae.likelihood, guide=vae.posterior)


def warn_if_changed(recipe: Path, made_by: dict[str, str] | None) -> None:
    """Print a warning if a recipe differs from the one that a run was made with."""
    given = record(recipe)
    if made_by and given["sha256"] != made_by["sha256"]:
        print(
            f"pyrovae: warning: {described(given)} differs from the recipe of the run, "
            f"{described(made_by)}",
            file=sys.stderr,
        )


def described(recorded: dict[str, str]) -> str:
    """Return the file name of a recipe and the start of its hash.

    Example:
        >>> described({"path": "/home/me/mine.py", "sha256": "0123456789abcdef"})
        'mine.py (sha256 0123456789ab)'
    """
    return f"{Path(recorded['path']).name} (sha256 {recorded['sha256'][:12]})"


def run(
    path: Path, shape: tuple[int, ...], *, seed: int, vocabulary: Vocabulary | None = None
) -> VAE:
    """Run a recipe at a seed, and return the result of its function `vae(shape)`.

    Of texts, the function is `vae(shape, vocabulary)`.

    Raises:
        ValueError: if there is no such file, if it has no such function, or if that function does
            not return a VAE.
    """
    given = (shape,) if vocabulary is None else (shape, vocabulary)
    signature = "vae(shape)" if vocabulary is None else "vae(shape, vocabulary)"
    path = path.resolve()
    if not path.is_file():
        raise ValueError(
            f"no recipe at {path}: give a Python file whose function vae(shape) returns a VAE"
        )
    name = f"recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"the recipe {path} is not a Python file: its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with seeded(seed):
        spec.loader.exec_module(module)
        make = getattr(module, "vae", None)
        if not (callable(make) and _takes(make, given)):
            raise ValueError(f"the recipe {path} has no function {signature} that returns a VAE")
        vae = make(*given)
    if not isinstance(vae, VAE):
        raise ValueError(
            f"{signature} of the recipe {path} returned {type(vae).__name__}; wanted "
            f"pyrovae.VAE. The shape was {shape}"
        )
    return vae


def _takes(function: Callable[..., Any], given: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def running(recipe: Path | None) -> Iterator[None]:
    """Let a recipe import modules of its folder, and name its line in errors."""
    if recipe is None:
        yield
        return
    recipe = recipe.resolve()
    neighbors = str(recipe.parent)
    sys.path.insert(0, neighbors)
    try:
        yield
    except BaseException as error:
        if isinstance(error, NonFiniteLoss | KeyboardInterrupt):
            raise
        raise _located(recipe, error) from error
    finally:
        sys.path.remove(neighbors)


def _located(recipe: Path, error: BaseException) -> BaseException:
    """Return an error with the recipe's line, if the error passed through the recipe."""
    if isinstance(error, SyntaxError) and error.filename == str(recipe):
        return ValueError(f"the recipe {recipe}, line {error.lineno}: {error.msg}")
    if isinstance(error, SyntaxError) and error.filename is None:  # The file is not text.
        return ValueError(f"the recipe {recipe}: {error.msg}")
    # An error of the library may have an error of the recipe as its cause.
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(recipe)]
        if lines:
            what = f"{type(cause).__name__}: {one_line(error)}"
            return ValueError(f"the recipe {recipe}, line {lines[-1]}: {what}")
        cause = cause.__cause__
    return error
