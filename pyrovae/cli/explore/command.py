"""Run `pyrovae explore`: walk the latent space of a run in a browser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributions import constraints

from pyrovae.cli import recipes
from pyrovae.cli.conditions import labels_by
from pyrovae.cli.explore import file
from pyrovae.cli.explore.contents import Contents
from pyrovae.cli.explore.lines import Origin
from pyrovae.cli.explore.server import serve
from pyrovae.cli.explore.world import World
from pyrovae.cli.figures import held_factors
from pyrovae.cli.measure import opened
from pyrovae.cli.sequences import is_sequence
from pyrovae.cli.walk_options import Explored
from pyrovae.data import DataSet, Split
from pyrovae.runs import Run
from pyrovae.runs.sources import first

__all__ = ["explore", "world_of"]

MOST: Final = 10_000
"""The number of data on the map by default."""


def explore(folder: Path, options: Explored) -> int:
    """Serve the page of a run until Ctrl-C, or write it to a file."""
    with recipes.running(options.recipe):
        world = world_of(folder, options)
        if options.out is None:
            serve(world, port=options.port)
        else:
            print(file.write(world, options.out))
    return 0


def world_of(folder: Path, options: Explored) -> World:
    """Return the latent space of a run over the data of one split.

    Raises:
        ValueError: if there is no run, or its data cannot be read.
    """
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    binarized = source.binarized(read)
    most = MOST if options.out is None else file.fitting(math.prod(read.shape))
    number = options.number or most
    data = first(getattr(binarized, options.split), number)
    return World(
        vae,
        data,
        contents=_contents(binarized, data),
        title=folder.resolve().name,
        colors=_colors(read, data),
        origin=Origin(
            held_factors(run),
            _head(folder, options, number, run.source.shape),
            _again(folder, options, number),
        ),
    )


def _contents(read: DataSet, data: Split) -> Contents:
    """Return how the data of a set are shown."""
    low, high = 0.0, 1.0
    domain: Any = read.domain
    if domain not in (constraints.unit_interval, constraints.boolean):
        known = isinstance(domain, constraints.integer_interval)
        bounds = (domain.lower_bound, domain.upper_bound) if known else data.x.aminmax()
        low, high = (float(value) for value in bounds)
    return Contents(read.shape, read.domain, (low, high), read.columns, read.table)


def _colors(read: DataSet, data: Split) -> dict[str, list[Any]]:
    """Return the factors and the covariates of data, by name."""
    found: dict[str, list[Any]] = {}
    if data.factors is not None:
        found |= {name: data.factors[:, i].tolist() for i, name in enumerate(read.factors)}
    for name in read.reading.kinds:
        try:
            values = labels_by(name, read, data)
        except ValueError:  # several numbers have no color
            continue
        found[name] = values.tolist() if isinstance(values, torch.Tensor) else list(values)
    return found


def _head(folder: Path, options: Explored, number: int, shape: Any) -> str:
    """Return the lines of Python that load the run and its data."""
    load, more = "run.load_vae()", ""
    if options.recipe is not None:
        words = ", vocabulary=run.vocabulary" if is_sequence(shape) else ""
        path = f"Path({str(options.recipe)!r})"
        more = f"\nmade = pv.cli.recipes.run({path}, {shape}, seed=0{words})"
        parts = "prior=made.prior, likelihood=made.likelihood, guide=made.posterior"
        load = f"run.load_vae(\n    {parts}\n)"
    data = f"data = run.data({options.split!r}, limit={number})"
    if options.data is not None or options.root is not None:
        root = None if options.root is None else f"Path({str(options.root)!r})"
        given = f"{options.data!r}, {root}, vae=vae, split={options.split!r}"
        data = f"data = run.source.given({given}).load().{options.split}.take(slice({number}))"
    return f"""\
from pathlib import Path

import torch
import pyrovae as pv
from pyrovae.runs import Run

run = Run(Path({str(folder)!r})){more}
vae = {load}.eval()
{data}
x, context = data.draw(), data.context"""


def _again(folder: Path, options: Explored, number: int) -> str:
    """Return the lines of Python that make the world of a run."""
    paths = {"recipe": options.recipe, "root": options.root}
    given = {name: f"Path({str(path)!r})" for name, path in paths.items() if path is not None}
    if options.data is not None:
        given["data"] = repr(options.data)
    more = "".join(f", {name}={value}" for name, value in given.items())
    chosen = f"Explored(split={options.split!r}, number={number}{more})"
    return f"""\
from pyrovae.cli.explore.command import world_of
from pyrovae.cli.walk_options import Explored

world = world_of(Path({str(folder)!r}), {chosen})"""
