"""Build what watches a training: averages, limits and logs, from the table [training]."""

from __future__ import annotations

from pathlib import Path

from pyrovae.cli.experiment import Training, seconds
from pyrovae.data import DataSet
from pyrovae.train.averaging import EMA
from pyrovae.train.callbacks import Callback, EarlyStopping
from pyrovae.train.limits import Limit
from pyrovae.train.logs import CSVLogger, LiveFigure, Log, Pictures, TensorBoardLogger

__all__ = ["callbacks"]

SHOWN = 10
"""The number of data in the pictures that are logged."""


def callbacks(settings: Training, data: DataSet, folder: Path) -> list[Callback]:
    """Return the callbacks that a training asks for.

    Args:
        settings: the table [training].
        data: the data set, of which the first validation data are drawn.
        folder: the run's folder, to which is logged.

    Raises:
        ValueError: for pictures without TensorBoard, which takes them, or for patience without
            validation data.

    Example:
        >>> from pathlib import Path
        >>> import pyrovae as pv
        >>> from pyrovae.cli.experiment import Training
        >>> settings = Training(ema=0.99, max_time="2h", log=["csv"])
        >>> made = pv.cli.watching.callbacks(settings, pv.data.load("digits"), Path("runs/first"))
        >>> [type(callback).__name__ for callback in made]
        ['EMA', 'Limit', 'Log']
    """
    made: list[Callback] = []
    if settings.patience:
        if not len(data.validation):
            raise ValueError(
                f"training.patience: it waits for the validation ELBO, and {data.name} has no "
                "validation data: leave it out, or give other fractions"
            )
        made.append(EarlyStopping(settings.patience))
    if settings.ema is not None:
        made.append(EMA(settings.ema))
    if settings.max_steps or settings.max_time:
        time = None if settings.max_time is None else seconds(settings.max_time)
        made.append(Limit(settings.max_steps, time))
    if settings.log_pictures and "tensorboard" not in settings.log:
        raise ValueError(
            "training.log_pictures: pictures are logged to TensorBoard: --log tensorboard"
        )
    every, pictures = settings.log_every, None
    if settings.log_pictures:
        x = (data.validation if len(data.validation) else data.train).draw()[:SHOWN]
        pictures = Pictures(x, data.shape, every=settings.log_pictures)
    if "csv" in settings.log:
        made.append(Log(CSVLogger(folder / "log.csv"), every=every))
    if "tensorboard" in settings.log:
        made.append(Log(TensorBoardLogger(folder / "tensorboard"), every=every, pictures=pictures))
    if "figure" in settings.log:
        made.append(LiveFigure(folder / "figures" / "history.png"))
    return made
