"""Plot the history of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import DASHED, OBJECTIVE, TRAIN, VALIDATION, blank, clean

__all__ = ["Epochs", "history"]


class Epochs(Protocol):
    """What `fit` returns, a `pyrovae.History`."""

    objective: str

    @property
    def epochs(self) -> Sequence[Any]:
        """The epochs of the training."""

    def column(self, name: str) -> list[float]:
        """Return one quantity over the epochs."""


def history(history: Epochs) -> Figure:
    """Plot the ELBO, the rate and the distortion against the epoch.

    The first panel also shows the training objective, averaged over each epoch. With a KL weight
    or another loss, it differs from the ELBO.

    Args:
        history: the result of `fit`.

    Raises:
        ValueError: if the history has no epochs.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.train.callbacks import Epoch
        >>> values = dict.fromkeys(Epoch.__annotations__, 1.0)
        >>> trained = pv.History([Epoch(**values)])
        >>> [axes.get_title(loc="left") for axes in pv.plots.history(trained).axes]
        ['ELBO', 'rate', 'distortion']
    """
    if not history.epochs:
        raise ValueError("the history has no epochs to plot: train for at least one")
    epochs = history.column("epoch")
    figure = blank(WIDTH, 2.5)
    panels = figure.subplots(1, 3)
    objective = [-loss for loss in history.column("loss")]
    panels[0].plot(epochs, objective, color=OBJECTIVE, linestyle=DASHED, label=history.objective)
    for axes, name in zip(panels, ("elbo", "rate", "distortion"), strict=True):
        for prefix, color, marker in (("", TRAIN, "o"), ("validation_", VALIDATION, "s")):
            values = history.column(prefix + name)
            if any(math.isfinite(value) for value in values):
                label = "validation" if prefix else "training data"
                size = 3.5 if len(epochs) <= 30 else 0
                axes.plot(epochs, values, color=color, marker=marker, markersize=size, label=label)
        axes.set_title("ELBO" if name == "elbo" else name, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        clean(axes)
    panels[0].set_ylabel("nats per datum")
    panels[0].legend(frameon=False, fontsize=8.5, loc="lower right")
    return figure
