"""What may happen beside a training: a progress bar, early stopping, checkpoints, your own.

A callback sees the state of the training and nothing else; the loop in `training` knows no more
of it than its moments: started, stepped, finished_epoch, finished, ended.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from pyrovae import runs
from pyrovae.vae import VAE
from pyrovae.weights.target import buffers_of


@dataclass(frozen=True)
class Epoch:
    """One line of the history, per datum and in nats.

    Attributes:
        epoch: from 1.
        loss: the mean over the epoch's steps of what they descended.
        elbo: the ELBO after the epoch on the first batches of the training data, 2,000 of them.
        rate: its KL part.
        distortion: its reconstruction part; elbo = -rate - distortion.
        validation_elbo: on the validation data, NaN where there are none.
        validation_rate: likewise.
        validation_distortion: likewise.
        kl_weight: at the epoch's last step.
        seconds: spent on the epoch's steps.
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
        epochs: one entry for each.
        ended: "all epochs done", "stopped early ..." or "interrupted".
        kept: the epoch at whose end the parameters were those that the training left; 0 for those
            before the first step.
        compile_seconds: spent on compiling, which the epochs' seconds leave out.
        objective: what the steps raised, in words.
    """

    epochs: list[Epoch] = field(default_factory=list)
    ended: str = "all epochs done"
    kept: int = 0
    compile_seconds: float = 0.0
    objective: str = "objective"

    def column(self, name: str) -> list[float]:
        """Return one quantity over the epochs."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def lines(self) -> list[dict[str, float | None]]:
        """Return the epochs as JSON records; what is not known is None."""
        return [
            {
                name: value if math.isfinite(value) else None
                for name, value in asdict(epoch).items()
            }
            for epoch in self.epochs
        ]


class Snapshot(dict[str, Tensor]):
    """Copies of parameters and buffers by name.

    Attributes:
        epoch: the epoch at whose end they were taken, or that has just ended before.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]], epoch: int) -> None:
        super().__init__(tensors)
        self.epoch = epoch


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """Raised by a callback's `finished_epoch` to end the training; the text says why."""


@dataclass
class Training:
    """The state that callbacks see.

    Attributes:
        target: the VAE, or the pair of programs.
        parameters: every trained tensor, unconstrained, by name.
        epochs: how many were asked for.
        batches: steps in an epoch; None in the first over a stream that does not know its length.
        history: the epochs so far.
        step: steps so far.
        loss: of the last step, per datum; on a GPU, of the last that was read, as an epoch ends.
        epoch: the epoch at whose end the parameters were these, steps since then apart.
        compiled: whether the step is compiled, which the first of each shape waits for.
    """

    target: Any
    parameters: dict[str, Tensor]
    epochs: int
    batches: int | None
    history: History = field(default_factory=History)
    step: int = 0
    loss: float = math.nan
    epoch: int = 0
    compiled: bool = False

    def snapshot(self) -> Snapshot:
        """Copy every parameter and buffer."""
        copies = ((name, tensor.detach().clone()) for name, tensor in self._tensors())
        return Snapshot(copies, self.epoch)

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a snapshot back in place."""
        self.epoch = getattr(snapshot, "epoch", self.epoch)
        with torch.no_grad():
            for name, tensor in self._tensors():
                tensor.copy_(snapshot[name])
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Take away what an earlier step, broken off, may have left."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.parameters.items()
        yield from buffers_of(self.target).items()


class Callback:
    """What may happen beside the training; override what is wanted."""

    def started(self, training: Training) -> None:
        """Before the first step."""

    def stepped(self, training: Training) -> None:
        """After each step."""

    def finished_epoch(self, training: Training) -> None:
        """After each epoch; raise `pyrovae.StopTraining` to make it the last."""

    def finished(self, training: Training) -> None:
        """After the last epoch, an interrupt or an error; parameters may still be changed."""

    def ended(self, training: Training) -> None:
        """After every callback's `finished`: the parameters are what they will be."""


class ProgressBar(Callback):
    """Show steps per second, the objective and the ELBO, and leave a line for each epoch.

    Args:
        every: leave a line only for every so many epochs.
    """

    def __init__(self, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"a line is left for every 1 or more epochs; got {every}")
        self.every = every

    def started(self, training: Training) -> None:
        """Open the bar."""
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            console=Console(stderr=True, force_jupyter=False),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(
            "training",
            total=training.batches,
            epoch=1,
            epochs=training.epochs,
            said="compiling the step" if training.compiled else "",
        )
        self.since, self.steps = time.perf_counter(), 0
        self.bar.start()

    def stepped(self, training: Training) -> None:
        """Move the bar on."""
        self.steps += 1
        rate = self.steps / max(time.perf_counter() - self.since, 1e-9)
        loss = f", loss {training.loss:.2f}" if math.isfinite(training.loss) else ""
        self.bar.update(
            self.task, advance=1, said=f"{rate:.{1 if rate < 10 else 0}f} steps/s{loss}"
        )

    def finished_epoch(self, training: Training) -> None:
        """Leave a line, and begin anew if there is another epoch."""
        last = training.history.epochs[-1]
        if last.epoch % self.every == 0:
            self._print(last, self.steps)
        if last.epoch < training.epochs:
            self.bar.update(
                self.task, total=training.batches, completed=0, epoch=last.epoch + 1, said=""
            )
        self.since, self.steps = time.perf_counter(), 0

    def _print(self, last: Epoch, steps: int) -> None:
        validation = (
            "" if math.isnan(last.validation_elbo) else f"  validation {last.validation_elbo:9.3f}"
        )
        self.bar.console.print(
            f"epoch {last.epoch:4d}  ELBO: train {last.elbo:9.3f}{validation}  "
            f"rate {last.rate:7.3f}  distortion {last.distortion:8.3f}  "
            f"{steps / max(last.seconds, 1e-9):5.0f} steps/s",
            highlight=False,
            soft_wrap=True,
        )

    def ended(self, training: Training) -> None:
        """Close the bar."""
        if hasattr(self, "bar"):
            self.bar.stop()


class EarlyStopping(Callback):
    """Stop when the validation ELBO has not risen for some epochs; keep the best parameters.

    Args:
        patience: how many epochs to wait for a new best.

    Raises:
        ValueError: from `fit`, if there are no validation data.
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f"patience is at least one epoch; got {patience}")
        self.patience = patience

    def started(self, training: Training) -> None:
        """Forget any earlier training."""
        self.best, self.waited = -math.inf, 0
        self.kept = training.snapshot()

    def finished_epoch(self, training: Training) -> None:
        """Compare with the best so far."""
        elbo = training.history.epochs[-1].validation_elbo
        if math.isnan(elbo):
            raise ValueError("EarlyStopping needs validation data: fit(..., validation=x)")
        if elbo > self.best:
            self.best, self.waited, self.kept = elbo, 0, training.snapshot()
            return
        self.waited += 1
        if self.waited >= self.patience:
            raise StopTraining(f"the validation ELBO was best {self.waited} epochs ago")

    def finished(self, training: Training) -> None:
        """Put the best parameters back."""
        if training.history.epochs and hasattr(self, "kept"):
            training.restore(self.kept)


class Checkpoint(Callback):
    """Write the VAE and the history to a run's folder after each epoch, atomically.

    Args:
        folder: of the run (see `pyrovae.runs`).
        **details: what else should stand in its `config.json`.
    """

    def __init__(self, folder: str | Path, **details: Any) -> None:
        self.folder, self.details = Path(folder), details

    def started(self, training: Training) -> None:
        """Write the first checkpoint, so that a folder that cannot be written is met at once."""
        if not isinstance(training.target, VAE):
            raise ValueError(
                "Checkpoint writes a VAE, which a folder can rebuild; got a pair of programs: "
                "compose pv.VAE(prior, likelihood, guide), or save the parameters yourself by "
                "pyro.get_param_store().save(path)"
            )
        run = runs.Run(self.folder)
        self.config = run.save(training.target, **self.details)
        self.run = run

    def finished_epoch(self, training: Training) -> None:
        """Write the checkpoint of the epoch."""
        self._write(training)

    def ended(self, training: Training) -> None:
        """Write the parameters that the training ends with (the best, if it stopped early)."""
        if hasattr(self, "run"):
            self._write(training)

    def _write(self, training: Training) -> None:
        self.run.save_epochs(training.target, self.config, training.history.lines())
