"""Write a training to a folder as it goes on, so that a crash loses minutes and not days."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from pyrovae.runs import Run
from pyrovae.runs.checkpoints import Checkpoints
from pyrovae.runs.record import check_details
from pyrovae.runs.run import read_tensors
from pyrovae.runs.state import collected
from pyrovae.train.callbacks import Callback, Training
from pyrovae.train.failures import not_finite
from pyrovae.vae import VAE

__all__ = ["Checkpoint"]

NONE_YET: Final = (-math.inf, -1)
"""The best validation ELBO and its step, before there is one."""


class Checkpoint(Callback):
    """Write the model, the history and the state of the training to a run's folder.

    The model and the history are written after each epoch (see `pyrovae.load`), or the parameters
    of a pair of programs (see `pyrovae.load_parameters`). The whole state is written after each
    epoch and every few minutes, for `fit(..., resume=folder)`; the last two states are kept, and
    that of the epoch with the best validation ELBO. Every file is written whole or not at all.

    Args:
        folder: the folder of the run (see `pyrovae.runs`). A run in it is overwritten, except if
            the training resumes from it.
        minutes: the time between two states within an epoch.
        **details: further entries of its `config.json`.

    Raises:
        OSError: from `fit`, if a file cannot be written; the files before are left.
        ValueError: if `minutes` is not above 0, or a run with these details could not be read.

    Attributes:
        writing: whether the folder holds this training. One that resumes leaves its folder as it
            was until the first step is taken; if none is left, it writes the model only if an
            earlier process ended before it could.

    Example:
        >>> import tempfile, torch, pyrovae as pv
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.ones(20, 64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     callbacks = [pv.Checkpoint(folder)]
        ...     _ = pv.fit(vae, x, epochs=2, callbacks=callbacks)
        ...     history = pv.fit(vae, x, epochs=5, callbacks=callbacks, resume=folder)
        >>> [epoch.epoch for epoch in history.epochs]
        [1, 2, 3, 4, 5]
    """

    writes = True

    def __init__(self, folder: str | Path, *, minutes: float = 10.0, **details: Any) -> None:
        if not minutes > 0:
            raise ValueError(f"a state is written every so many minutes, above 0; got {minutes}")
        check_details(details)
        self.folder, self.minutes, self.details = Path(folder), minutes, details
        self.best: tuple[float, int] = NONE_YET
        self.run, self.checkpoints = Run(self.folder), Checkpoints(self.folder)
        self.writing = self.restored = False

    def started(self, training: Training) -> None:
        """Write the first files, so that errors of the folder are raised at once."""
        self.best, self.written = NONE_YET, time.monotonic()
        self.writing = self.restored = False
        if not training.resumed:
            self._begin(training)
        elif self._goes_on(training):
            self.config = self.run.config | self.details
            self.run.check_writable()

    def resumed(self, training: Training) -> None:
        """Begin a run that goes on from the checkpoint of another folder."""
        self.restored = True
        if not self._goes_on(training):
            self._begin(training)

    def _goes_on(self, training: Training) -> bool:
        return self.folder.resolve() == Path(training.resumed).resolve()

    def _begin(self, training: Training) -> None:
        self.checkpoints.clear()
        self.config = self.run.save(_saved(training), **self.details)
        self._write_state(training)
        self.writing = True

    def stepped(self, training: Training) -> None:
        """Write the state, if the last one is too old."""
        self.writing = True
        if time.monotonic() - self.written > 60 * self.minutes:
            self._write_state(training)

    def paused(self, training: Training) -> None:
        """Write the state within an epoch."""
        self._write_state(training)

    def finished_epoch(self, training: Training) -> None:
        """Write the model and the state after an epoch."""
        self.writing = True
        if not training.partial:
            elbo = training.history.epochs[-1].validation_elbo
            if math.isfinite(elbo) and elbo > self.best[0]:
                self.best = (elbo, training.step)
            self._write_state(training)
        self._write_model(training)

    def ended(self, training: Training) -> None:
        """Write the final parameters (the best, after early stopping)."""
        self.writing |= self.restored and _is_over(training) and not self._is_written(training)
        if self.writing:
            self._write_model(training)

    def _is_written(self, training: Training) -> bool:
        """Tell whether the model's file has the present tensors."""
        try:
            written = read_tensors(self.folder / "model.safetensors")
        except ValueError:
            return False
        saved = _saved(training)
        present = collected(saved) if isinstance(saved, VAE) else saved
        return written.keys() == present.keys() and all(
            torch.equal(written[name], tensor.detach().cpu()) for name, tensor in present.items()
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation ELBO and its step."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an earlier training."""
        self.best = state["best"]

    def _write_state(self, training: Training) -> None:
        if not_finite(training.parameters):  # the training is about to be broken off
            return
        self.checkpoints.write(training.step, training.state(), keep={self.best[1]})
        self.written = time.monotonic()

    def _write_model(self, training: Training) -> None:
        self.run.save_epochs(_saved(training), self.config, training.history.lines())


def _is_over(training: Training) -> bool:
    """Tell whether no step is left to take."""
    history = training.history
    return len(history.epochs) >= training.epochs or history.ended.startswith("stopped early")


def _saved(training: Training) -> Any:
    """Return what a run holds: the VAE, or the tensors of a pair of programs by name.

    Programs that are loaded announce what they announced at the start.
    """
    if isinstance(training.target, VAE):
        return training.target
    return {n: tensor for n, tensor in training.snapshot().items() if n not in training.late}
