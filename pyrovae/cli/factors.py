"""Run `pyrovae factors`: which latent unit of a run holds which factor of its data."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.cli import recipes
from pyrovae.cli.figures import save_figures
from pyrovae.cli.measure import opened
from pyrovae.cli.options import Factored
from pyrovae.data import DataSet, Split
from pyrovae.data.array_files import numpy_arrays
from pyrovae.data.frames import SUFFIXES, read_frame
from pyrovae.measure.disentanglement import assign, disentanglement
from pyrovae.measure.disentanglement.assignment import listed
from pyrovae.measure.disentanglement.saved import FACTORS, save_factors
from pyrovae.measure.report import USED
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.runs.record import provenance
from pyrovae.runs.sources import first
from pyrovae.vae import VAE
from pyrovae.weights.kl import dimension_rates
from pyrovae.weights.posterior_means import posterior_means
from pyrovae.weights.target import Resolved

__all__ = ["factors"]

OF_KL: Final = 1_000
"""The largest number of data that tell whether a unit is used."""


def factors(folder: Path, options: Factored, *, command: Sequence[str]) -> int:
    """Assign the factors of a run's data to its latent units, score them, and save both.

    Raises:
        ValueError: if the data have neither factors nor labels, or the given ones do not fit.
    """
    run = Run(folder)
    parameters = run.parameters_hash  # before they are read, as a training may write others
    vae, source, read = opened(run, options, split=options.split)
    said = run.source.met_again(read, options.split)
    if said is not None:
        print(f"pyrovae: warning: {said}", file=sys.stderr)
    split: Split = getattr(source.binarized(read), options.split)
    if options.factors is None:
        values = _of_data(split, read.factors)
    else:
        values = _of_file(options.factors, read, options.split)
    split = first(split, options.limit)
    values, single = _varying({name: value[: len(split)] for name, value in values.items()})
    run.check_writable()
    with recipes.running(options.recipe):
        z, units, unused = _embedded(vae, split)
    details = {
        **provenance(),
        "command": list(command),
        "run": run.config.get("run"),
        "parameters": parameters,
        "data_set": source.name,
        "split": options.split,
    }
    found = assign(z, values, units=units)
    save_factors(run.folder / FACTORS, found, **details)
    print(f"Which unit holds which factor, of posterior means of {source.name}, {options.split}:")
    print(found)
    if unused:
        print(f"Left out: {listed(unused)}, whose posterior is the prior (KL < {USED} nats).")
    if single:
        print(f"Left out, as they have a single value: {', '.join(single)}.")
    with warnings.catch_warnings():
        # scikit-learn warns of classes that have few data, whose scores have large errors.
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        scores = disentanglement(z, values)
    save_factors(run.folder / FACTORS, found, scores, **details)
    print(scores)
    print(f"written: {run.folder / FACTORS}")
    figures = {
        "assignment": plots.assignment(found),
        "factor_responses": plots.factor_responses(z, values, units=units, assigned=found),
    }
    save_figures(figures, run)
    print(f"figures in {run.folder / 'figures'}: {', '.join(figures)}")
    return 0


def _of_data(split: Split, names: Sequence[str]) -> dict[str, Any]:
    """Return the factors of the data, else their labels, by name."""
    if split.factors is not None:
        return dict(zip(names, split.factors.T, strict=True))
    if split.labels is not None:
        return {"label": split.labels}
    raise ValueError(
        "the data have neither factors nor labels: give a file with a column for each factor, "
        "--factors FILE.csv"
    )


def _of_file(path: Path, data: DataSet, split: str) -> dict[str, Any]:
    """Return the factors in the rows of a file that are those of a split, by name."""
    own = len(data.splits[split])
    rows = data.rows[split].numpy() if data.rows else np.arange(own)
    wanted = sum(map(len, data.rows.values())) if data.rows else own
    found = _read(path)
    for name, values in found.items():
        if len(values) != wanted:
            of = data.name if data.rows else f"the {split} split of {data.name}"
            raise ValueError(
                f"{path} has {len(values):,} values of {name!r}, and {of} has {wanted:,} rows: "
                "give one row of factors for each, in the same order"
            )
    return {name: values[rows] for name, values in found.items()}


def _read(path: Path) -> dict[str, Any]:
    """Return the columns of a table, or the arrays of a file of NumPy, by name."""
    if path.suffix.lower() in SUFFIXES:
        frame = read_frame(path)
        return {name: frame[name].to_numpy() for name in frame.columns}
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"factors are read from .npy, .npz, {', '.join(SUFFIXES)}; got {path}")
    found = {}
    for name, values in numpy_arrays(path).items():
        if values.ndim == 1:
            found[name] = values
        else:
            rows = values.reshape(len(values), -1)
            found |= {f"{name}[{i}]": column for i, column in enumerate(rows.T)}
    return found


def _varying(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the factors with several values, and the names of those with one.

    Raises:
        ValueError: if no factor has several.
    """
    single = [name for name, column in values.items() if len({*map(str, column.tolist())}) < 2]
    if len(single) == len(values):
        raise ValueError(
            f"each of the factors {', '.join(single)} has a single value in these data: take more "
            "of them, or others"
        )
    return {name: column for name, column in values.items() if name not in single}, single


@torch.no_grad()
def _embedded(vae: VAE, split: Split) -> tuple[Tensor, list[str], list[str]]:
    """Return the units that are used, [N, L], their names, and those of the unused ones.

    A unit whose KL is not known counts as used, and so do all if none is.
    """
    z, resolved = vae.embed(split).cpu(), Resolved.of(vae)
    few = split.take(slice(OF_KL))
    x, context = few.draw(), few.context
    with resolved.evaluating(), seeded(0):
        means = posterior_means(resolved.guide, resolved.given(x, *context).first(2))
        rates = dimension_rates(vae, x, *context, particles=1)
    names, used = [], []
    for site, mean in means.items():
        size = mean.value.shape[1]
        names += [f"{site}[{j}]" for j in range(size)]
        known = rates[site].mean(0).tolist() if site in rates else []
        used += [rate >= USED for rate in known] if len(known) == size else [True] * size
    if not any(used):
        return z, names, []
    kept = [j for j, each in enumerate(used) if each]
    unused = [name for name, each in zip(names, used, strict=True) if not each]
    return z[:, kept], [names[j] for j in kept], unused
