"""The history of a training: what was measured at the end of each epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pyrovae.files import html

__all__ = ["Epoch", "History"]

SHOWN: Final = 12
"""The largest number of epochs in the table of a notebook."""

COLUMNS: Final = {
    "epoch": "epoch",
    "loss": "loss",
    "elbo": "ELBO",
    "validation_elbo": "validation ELBO",
    "rate": "rate",
    "distortion": "distortion",
    "kl_weight": "KL weight",
    "seconds": "seconds",
}
"""The columns of this table, and their heads."""


@dataclass(frozen=True)
class Epoch:
    """The measurements of an epoch, means over data in nats.

    Attributes:
        epoch: the number of the epoch, from 1.
        loss: the mean loss of the epoch's steps.
        elbo: the ELBO after the epoch on the first 2,000 training data.
        rate: the KL term of the ELBO.
        distortion: the negative reconstruction term; elbo = -rate - distortion.
        validation_elbo: the ELBO on the validation data, NaN without any.
        validation_rate: the rate on the validation data.
        validation_distortion: the distortion on the validation data.
        kl_weight: the KL weight at the epoch's last step.
        seconds: the time of the epoch's steps.
    """

    epoch: int
    loss: float
    elbo: float
    rate: float
    distortion: float
    validation_elbo: float
    validation_rate: float
    validation_distortion: float
    kl_weight: float
    seconds: float


@dataclass
class History:
    """The epochs of a training, and why it ended.

    Attributes:
        epochs: the measurements of each epoch.
        ended: "all epochs done", "stopped early ...", "interrupted" or "broken off ...".
        kept: the epoch whose parameters the target has after training; 0 is before the first
            step.
        compile_seconds: the time of compiling, which is not part of the epochs' seconds.
        objective: the name of the objective.
        averaged: how the parameters that were measured and kept are averaged; "" if they are not.

    Example:
        >>> import pyrovae as pv
        >>> digits, vae = pv.data.load("digits"), pv.mlp_vae(64, latents=2, hidden=16)
        >>> history = pv.fit(vae, digits.train, epochs=2, callbacks=[])
        >>> len(history.column("elbo")), history.ended
        (2, 'all epochs done')
    """

    epochs: list[Epoch] = field(default_factory=list)
    ended: str = "all epochs done"
    kept: int = 0
    compile_seconds: float = 0.0
    objective: str = "objective"
    averaged: str = ""

    def column(self, name: str) -> list[float]:
        """Return one measurement of every epoch."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def plot(self) -> Any:
        """Plot the bounds, the rate and the distortion by epoch, as `pyrovae.plots.history`."""
        from pyrovae.plots import history  # matplotlib is imported for figures only

        return history(self)

    def _repr_html_(self) -> str:
        """Return the table of the epochs for a notebook: twelve of them, if there are more."""
        shown = _spread(len(self.epochs), self.kept)
        rows = [_row(self.epochs[i]) for i in shown]
        count = f"{len(self.epochs):,} epochs"
        title = f"{len(shown)} of {count}" if len(shown) < len(self.epochs) else count
        said = f"{self.ended[:1].upper()}{self.ended[1:]}. Kept: epoch {self.kept}."
        averaged = [html.sentence(f"Averaged: {self.averaged}.")] if self.averaged else []
        return html.block(
            html.table(f"{title}, nats per datum", list(COLUMNS.values()), rows),
            *(html.sentence(said), *averaged),
        )

    def lines(self) -> list[dict[str, float | None]]:
        """Return the epochs as JSON records; numbers that are not finite are None."""
        return [
            {
                name: value if math.isfinite(value) else None
                for name, value in asdict(epoch).items()
            }
            for epoch in self.epochs
        ]


def _spread(count: int, kept: int) -> list[int]:
    """Return the places of the epochs to show: all of a few, else the kept one among others."""
    if count <= SHOWN:
        return list(range(count))
    steps = SHOWN - 2
    shown = {round(i * (count - 1) / steps) for i in range(steps + 1)}
    return sorted(shown | ({kept - 1} if kept else set()))


def _row(epoch: Epoch) -> list[str]:
    """Return the cells of an epoch; a number that is not known is empty."""
    number, *values = (getattr(epoch, name) for name in COLUMNS)
    *nats, weight, seconds = values
    cells = ["" if math.isnan(value) else f"{value:.3f}" for value in nats]
    return [str(number), *cells, f"{weight:.3g}", f"{seconds:.1f}"]
