"""Log a training: numbers, figures and images, to any logger of Lightning's protocol.

A logger is an object with a method `log_metrics(metrics, step)`. Those of Lightning for Weights &
Biases, MLflow and Comet are passed as they are. Figures go to a logger's `log_image`, if it has
one.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import plots
from pyrovae.data.images import Shape
from pyrovae.files import write_atomically
from pyrovae.randomness import seeded
from pyrovae.train.callbacks import Callback, Training
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.target import buffers_kept, placed

__all__ = ["CSVLogger", "LiveFigure", "Log", "Logger", "Pictures", "TensorBoardLogger"]


@runtime_checkable
class Logger(Protocol):
    """What logs a training."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers by name, at a number of steps."""


class Pictures:
    """Draw reconstructions and samples of a VAE, for `Log`.

    Args:
        x: the data that are reconstructed, [n, C * H * W]; the same number is sampled.
        shape: (C, H, W).
        *context: further arguments of the VAE's parts, for these data.
        every: the number of epochs from one drawing to the next, 1 or more.

    Raises:
        ValueError: if `every` is less than 1.

    Example:
        >>> import pyrovae as pv
        >>> digits, vae = pv.data.load("digits"), pv.mlp_vae(64, latents=2, hidden=16)
        >>> list(pv.Pictures(digits.test.x[:10], digits.shape).draw(vae))
        ['reconstructions', 'samples']
    """

    def __init__(self, x: Tensor, shape: Shape, *context: ContextValue, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"pictures are drawn every 1 or more epochs; got every={every}")
        self.x, self.shape, self.context, self.every = x, shape, context, every

    def draw(self, vae: VAE) -> dict[str, Figure]:
        """Return the figures, with the same noise each time."""
        x, *context = placed(vae, self.x, *self.context)
        with seeded(0), buffers_kept(vae):
            return {
                "reconstructions": plots.reconstructions(vae, x, self.shape, *context),
                "samples": plots.samples(vae, len(x), self.shape, *context),
            }


class Log(Callback):
    """Log the loss, learning rate and gradient norm of steps, and the measurements of epochs.

    Numbers that are not finite are left out. The names of an epoch's numbers are those of
    `history.epochs`.

    Args:
        logger: an object with a method `log_metrics(metrics, step)`. It is also told
            `log_image(key=..., images=[...], step=...)` with arrays [H, W, 3] of bytes, and
            `finalize(status)` at the end, if it has these methods.
        every: the number of steps from one logged to the next, 1 or more.
        pictures: reconstructions and samples that are drawn after epochs.

    Raises:
        ValueError: for an object that is no logger, and from `fit`, for pictures of a target
            that is not a `VAE` or by a logger that takes no images.

    Example:
        >>> import pathlib, tempfile, pyrovae as pv
        >>> digits, vae = pv.data.load("digits"), pv.mlp_vae(64, latents=2, hidden=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = pv.Log(pv.CSVLogger(folder + "/log.csv"), every=5)
        ...     history = pv.fit(vae, digits.train, epochs=1, callbacks=[log])
        ...     print(pathlib.Path(folder, "log.csv").read_text().splitlines()[0])
        step,loss,learning_rate,gradient_norm,epoch,elbo,rate,distortion,kl_weight,seconds
    """

    needs_gradient_norm = True

    writes = True

    def __init__(
        self, logger: Logger, *, every: int = 50, pictures: Pictures | None = None
    ) -> None:
        if isinstance(logger, type) or not isinstance(logger, Logger):
            raise ValueError(
                "a logger has a method log_metrics(metrics, step), such as "
                f"pyrovae.CSVLogger(path); got {logger!r}"
            )
        if every < 1:
            raise ValueError(f"every 1 or more steps are logged; got every={every}")
        self.logger, self.every, self.pictures = logger, every, pictures
        self._first: tuple[int, int] | None = None
        self._begun = False

    def started(self, training: Training) -> None:
        """Check the pictures."""
        if self.pictures is not None:
            if not isinstance(training.target, VAE):
                raise ValueError("pictures are drawn of a VAE; the target is a pair of programs")
            if not hasattr(self.logger, "log_image"):
                raise ValueError(
                    f"{type(self.logger).__name__} takes no images: it has no log_image(key, "
                    "images, step)"
                )
        self._first, self._begun = None, False

    def started_epoch(self, training: Training) -> None:
        """Note the steps and epochs before the first step, which has not been taken yet."""
        self._first = self._first or (training.step, len(training.history.epochs))

    def _begin(self) -> None:
        """Begin after the steps before this training, which are not 0 where it resumes."""
        if not self._begun and self._first is not None and hasattr(self.logger, "begin"):
            self.logger.begin(*self._first)
        self._begun = True

    def stepped(self, training: Training) -> None:
        """Log the numbers of a step."""
        self._begin()
        if training.step % self.every:
            return
        numbers = {
            "loss": training.loss,
            "learning_rate": training.learning_rate,
            "gradient_norm": training.gradient_norm,
        }
        self._log(numbers, training.step)

    def finished_epoch(self, training: Training) -> None:
        """Log the measurements of an epoch, and its pictures."""
        self._begin()
        last = training.history.epochs[-1]
        self._log(asdict(last), training.step)
        if self.pictures is not None and last.epoch % self.pictures.every == 0:
            for key, figure in self.pictures.draw(training.target).items():
                logger: Any = self.logger
                logger.log_image(key=key, images=[pixels(figure)], step=training.step)

    def ended(self, training: Training) -> None:
        """Tell the logger that the training is over."""
        if hasattr(self.logger, "finalize"):
            broken = training.history.ended.startswith("broken off")
            self.logger.finalize("failed" if broken else "success")

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self.logger.log_metrics(finite, step)


class CSVLogger:
    """Write one line for each logged step to a CSV file, which is readable at any time.

    A new training replaces the file; one that resumes keeps the lines up to its first step.

    Args:
        path: the file; its folder is made.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrovae import CSVLogger
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = CSVLogger(Path(folder) / "log.csv")
        ...     logger.log_metrics({"loss": 2.5}, 10)
        ...     logger.log_metrics({"elbo": -2.0}, 10)
        ...     print(logger.path.read_text())
        step,loss,elbo
        10,2.5,
        10,,-2.0
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._names = Path(path), list[str]()

    def begin(self, step: int, epochs: int = 0) -> None:
        """Keep the lines up to so many steps and whole epochs, and write the next after them."""
        rows = [
            row
            for row in (self._rows() if step else ())
            if int(row["step"]) <= step and int(row.get("epoch") or 0) <= epochs
        ]
        self._write(rows, list(rows[0]) if rows else ["step"])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a line, and a column for each new name."""
        row = {"step": str(step), **{name: str(value) for name, value in metrics.items()}}
        new = [name for name in row if name not in self._names]
        if new or not self.path.exists():
            self._write([*self._rows(), row], [*self._names, *new])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._names, lineterminator="\n").writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.get("step")]

    def _write(self, rows: Sequence[Mapping[str, str]], names: list[str]) -> None:
        self._names, text = names, io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


class TensorBoardLogger:
    """Write numbers and images for TensorBoard: `tensorboard --logdir FOLDER`.

    Args:
        folder: the folder of the event files.

    Raises:
        ValueError: if the package `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "TensorBoardLogger needs the package tensorboard: python -m pip install "
                "'pyrovae[logging]'"
            ) from error
        self.folder, self._make = Path(folder), SummaryWriter
        self._writer: Any = None

    def begin(self, step: int, epochs: int = 0) -> None:
        """Hide what was logged after so many steps, and write the next after it."""
        self.finalize()
        self._writer = self._make(str(self.folder), purge_step=step + 1 if step else None)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each name."""
        for name, value in metrics.items():
            self._open().add_scalar(name, value, step)

    def log_image(self, key: str, images: Sequence[np.ndarray], step: int) -> None:
        """Add images, arrays [H, W, 3] of bytes."""
        for number, image in enumerate(images):
            name = f"{key}/{number}" if len(images) > 1 else key
            self._open().add_image(name, image, step, dataformats="HWC")

    def finalize(self, status: str = "success") -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = self._make(str(self.folder))
        return self._writer


class LiveFigure(Callback):
    """Draw the history to a PNG file after each epoch.

    The file is rewritten atomically, so that a browser or an image viewer that reloads it never
    finds half of it.

    Args:
        path: the file, which ends in .png.

    Raises:
        ValueError: if it does not end in .png.
    """

    writes = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".png":
            raise ValueError(f"a live figure is a .png file; got the name '{self.path.name}'")

    def finished_epoch(self, training: Training) -> None:
        """Draw the epochs so far."""
        plots.save(plots.history(training.history), self.path)


def pixels(figure: Figure) -> np.ndarray:
    """Return a figure as an array [H, W, 3] of bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
