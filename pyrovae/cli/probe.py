"""Run `pyrovae probe`: predict the labels of a run's data from its posterior means."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyrovae.cli import recipes
from pyrovae.cli.measure import opened
from pyrovae.cli.options import Probed
from pyrovae.data import Split
from pyrovae.measure.probe import probe as measure
from pyrovae.runs import Run
from pyrovae.runs.sources import first

__all__ = ["probe"]


def probe(folder: Path, options: Probed) -> int:
    """Print the scores of probes of a run, of principal components and of x.

    Raises:
        ValueError: if the data have no labels, or they cannot be probed.
    """
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    said = run.source.met_again(read, options.split)
    if said is not None:
        print(f"pyrovae: warning: {said}", file=sys.stderr)
    binarized = source.binarized(read)
    data = first(getattr(binarized, options.split), options.limit)
    if data.labels is None:
        raise ValueError(
            f"the data of {source.name} have no labels to predict: name their column or key with "
            "--data.labels at training, or give data that have them with --data"
        )
    with recipes.running(options.recipe):
        found: dict[str, Any] = {"VAE": vae.embed(data).cpu()}
        if run.table is None:
            x = data.draw().flatten(1)
            found |= _components(binarized.train, x, found["VAE"].shape[1]) | {"x": x}
        print(measure(found, y=data.labels))
    return 0


def _components(train: Split, x: Any, number: int) -> dict[str, Any]:
    """Return as many principal components as the VAE has latents, of the training data."""
    from sklearn.decomposition import PCA

    fitted = train.draw().flatten(1)
    if number > min(fitted.shape):
        return {}
    return {"PCA": PCA(number, random_state=0).fit(fitted.numpy()).transform(x.numpy())}
