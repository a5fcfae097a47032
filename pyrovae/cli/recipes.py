"""Recipes: Python files of the user's own, whose function `vae(shape)` returns a VAE.

The command line runs a recipe only when it is told to; the path that a run's folder records is
shown, never followed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyrovae.data import seeded
from pyrovae.sites import one_line
from pyrovae.training import NonFiniteLoss
from pyrovae.vae import VAE


def run(path: Path, shape: tuple[int, int, int], *, seed: int) -> VAE:
    """Run a recipe and return the VAE that its function `vae(shape)` makes, at the seed.

    Raises:
        ValueError: if there is no such file, no function `vae(shape)` in it, or if that returns
            something else than a VAE.
    """
    path = path.resolve()
    if not path.is_file():
        raise ValueError(
            f"no recipe at {path}: a Python file whose function vae(shape) makes a VAE"
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
        if not (callable(make) and _takes_one(make)):
            raise ValueError(f"the recipe {path} has no function vae(shape) that returns a VAE")
        vae = make(shape)
    if not isinstance(vae, VAE):
        raise ValueError(
            f"vae({shape}) of the recipe {path} returned {type(vae).__name__}; wanted pyrovae.VAE"
        )
    return vae


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def running(recipe: Path | None) -> Iterator[None]:
    """Let a recipe import its neighbours, and name the line of it at which anything fails."""
    if recipe is None:
        yield
        return
    recipe = recipe.resolve()
    neighbours = str(recipe.parent)
    sys.path.insert(0, neighbours)
    try:
        yield
    except BaseException as error:
        if isinstance(error, NonFiniteLoss | KeyboardInterrupt):
            raise
        raise _located(recipe, error) from error
    finally:
        sys.path.remove(neighbours)


def _located(recipe: Path, error: BaseException) -> BaseException:
    """Return an error that names the recipe's line, if it passed through the recipe."""
    if isinstance(error, SyntaxError) and error.filename == str(recipe):
        return ValueError(f"the recipe {recipe}, line {error.lineno}: {error.msg}")
    if isinstance(error, SyntaxError) and error.filename is None:  # not text at all
        return ValueError(f"the recipe {recipe}: {error.msg}")
    # What the library says in a sentence has the program's own error as its cause.
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(recipe)]
        if lines:
            what = f"{type(cause).__name__}: {one_line(error)}"
            return ValueError(f"the recipe {recipe}, line {lines[-1]}: {what}")
        cause = cause.__cause__
    return error
