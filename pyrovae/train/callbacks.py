"""Callbacks of `fit`: a progress bar, early stopping, or one's own.

The training loop calls the methods of each callback with the state of the training.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from pyrovae.train.history import Epoch, History
from pyrovae.train.optimizers import learning_rate_of
from pyrovae.vae import VAE
from pyrovae.weights.attributes import assign_attributes, changed_attributes
from pyrovae.weights.target import buffers_of

__all__ = [
    "Callback",
    "EarlyStopping",
    "Epoch",
    "History",
    "ProgressBar",
    "Snapshot",
    "StopTraining",
    "Training",
]


class Snapshot(dict[str, Tensor]):
    """Copies of parameters and buffers by name.

    Attributes:
        epoch: the number of whole epochs before they were taken.
        attributes: copies of tensors that modules keep in plain attributes.
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        epoch: int,
        attributes: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(tensors)
        self.epoch, self.attributes = epoch, dict(attributes or {})

    def as_tree(self) -> dict[str, Any]:
        """Return plain dictionaries, for a checkpoint."""
        return {"tensors": dict(self), "epoch": self.epoch, "attributes": self.attributes}

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot of `as_tree`."""
        return cls(tree["tensors"].items(), tree["epoch"], tree["attributes"])


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """Raised by a callback's `stepped` or `finished_epoch` to end the training, with the reason.

    After `stepped`, the epoch ends with its steps so far: it is measured, and the parameters stay.
    """


@dataclass
class Training:
    """The state of a training, as callbacks see it.

    Attributes:
        target: the VAE, or the pair of programs.
        parameters: the unconstrained parameters by name.
        epochs: the number of epochs to train.
        batches: the number of steps in an epoch; None in the first epoch over a stream of unknown
            length.
        history: the epochs so far.
        step: the number of steps so far.
        loss: the loss of the last step per datum; on a GPU it is read at the end of an epoch.
        epoch: the epoch that the parameters come from, up to the steps since then.
        compiled: whether the step is compiled.
        partial: whether the last epoch ended before its last step.
        validated: whether there are validation data.
        resumed: the folder that the training goes on from, "" if it begins anew.
        state: returns the whole state, a tree of tensors and numbers, for a checkpoint.
        optimizer: the optimizer, of Pyro or `pyrovae.Optim`.
        norm: the norm of the last step's gradient as a tensor, which may be on a GPU.
        late: the values of the parameters that were not announced from the start, before the step
            that announced each.
        waiting: the saved values of those that no step has announced since a training resumed.
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
    partial: bool = False
    validated: bool = False
    resumed: str = ""
    state: Callable[[], dict[str, Any]] = dict
    optimizer: Any = None
    norm: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    late: dict[str, Tensor] = field(default_factory=dict)
    waiting: dict[str, Tensor] = field(default_factory=dict)
    _met: int = 0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step, for parameters in no group or for the first ones.

        NaN before the first step of an optimizer of Pyro.
        """
        return learning_rate_of(self.optimizer)

    @property
    def gradient_norm(self) -> float:
        """The norm of the last step's gradient over all parameters, before clipping.

        NaN if the step does not clip and no callback has `needs_gradient_norm`. Reading it waits
        for a GPU.
        """
        return self.norm.item()

    def snapshot(self) -> Snapshot:
        """Copy the parameters, buffers and plain attributes."""
        copies = ((name, tensor.detach().clone()) for name, tensor in self._tensors())
        held = changed_attributes(self.target) if isinstance(self.target, VAE) else {}
        attributes = {name: value.detach().clone() for name, value in held.items()}
        return Snapshot(copies, self.epoch, attributes)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the parameters, buffers and plain attributes of a snapshot.

        Parameters that were announced after it get the values that they had until then.
        """
        self.epoch = snapshot.epoch
        assign_attributes(self.target, snapshot.attributes)
        self.waiting = {}
        present = dict(self._tensors())
        device = next((p.device for p in self.parameters.values()), None)
        with torch.no_grad():
            for name, tensor in present.items():
                tensor.copy_(snapshot[name] if name in snapshot else self.late[name])
        left = snapshot.keys() - present.keys()
        self.waiting = {name: snapshot[name].to(device, copy=True) for name in sorted(left)}
        self.forget_gradients()

    def values(self) -> dict[str, Tensor]:
        """Return the parameters by name, and the values that wait for theirs."""
        return self.parameters | self.waiting

    def meet(self, names: Mapping[Tensor, str]) -> bool:
        """Add the parameters that SVI has met since; return whether values waited for some."""
        if len(names) == self._met:
            return False
        self._met = len(names)
        known = self.parameters.keys()
        new = {name: parameter for parameter, name in names.items() if name not in known}
        for name, parameter in new.items():
            self.late.setdefault(name, parameter.detach().clone())
            self.parameters[name] = parameter
        waited = self.waiting.keys() & new.keys()
        for name in waited:
            del self.waiting[name]
        return bool(waited)

    def forget_gradients(self) -> None:
        """Set the gradients to None."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.values().items()
        yield from buffers_of(self.target).items()


class Callback:
    """Base class of callbacks: override the methods that are needed.

    Example:
        >>> from pyrovae import Callback, ProgressBar, StopTraining
        >>> class StopAtLoss(Callback):
        ...     def finished_epoch(self, training):
        ...         if training.history.epochs[-1].loss < 50:
        ...             raise StopTraining("the loss is below 50 nats")
        >>> callbacks = [ProgressBar(), StopAtLoss()]

    Attributes:
        needs_gradient_norm: whether it reads `Training.gradient_norm`, which is measured if any
            callback does.
        writes: whether it writes to files or the screen, and does nothing else to the training.
            Of several processes, that of rank 0 alone calls such a callback.
    """

    needs_gradient_norm: bool = False
    writes: ClassVar[bool] = False

    def started(self, training: Training) -> None:
        """Before the first step."""

    def resumed(self, training: Training) -> None:
        """After `started`, if the training goes on from a checkpoint."""

    def started_epoch(self, training: Training) -> None:
        """Before the first step of each epoch."""

    def compiling(self, training: Training) -> None:
        """Before a step is compiled, which takes seconds to tens of seconds."""

    def stepped(self, training: Training) -> None:
        """After each step; raise `pyrovae.StopTraining` to end the training there."""

    def paused(self, training: Training) -> None:
        """After the last step of a training that ends in the middle of an epoch."""

    def measuring(self, training: Training) -> None:
        """After the steps of an epoch, before the ELBO is measured."""

    def finished_epoch(self, training: Training) -> None:
        """After each epoch; raise `pyrovae.StopTraining` to end the training."""

    def finished(self, training: Training) -> None:
        """After the last epoch, an interrupt or an error; the parameters may be changed.

        It is not called if the training could not begin: an error in a callback's `started`, or a
        checkpoint that is refused.
        """

    def ended(self, training: Training) -> None:
        """After `finished` of every callback: the parameters are final.

        It is called whenever `started` has returned, even if the training could not begin.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: tensors, numbers and strings in dictionaries and lists.

        A training resumes bit for bit only if its callbacks return whatever they will act on.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""


class ProgressBar(Callback):
    """Show steps per second, the loss and the time left; print the ELBO of each epoch to stderr.

    While a step is compiled, the bar says so.

    Args:
        every: the number of epochs per printed line, 1 or more.

    Raises:
        ValueError: if `every` is less than 1.
    """

    writes = True

    def __init__(self, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"a line is printed every 1 or more epochs; got every={every}")
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
        self._count()
        self.bar.start()

    def _count(self) -> None:
        self.since, self.steps, self.timed = time.perf_counter(), 0, 0

    def compiling(self, training: Training) -> None:
        """Say that the step is compiled."""
        self.bar.update(self.task, said="compiling the step")
        self.timed = -1  # the time of this step is not one of training

    def stepped(self, training: Training) -> None:
        """Advance the bar."""
        self.steps, self.timed = self.steps + 1, self.timed + 1
        if not self.timed:
            self.since = time.perf_counter()
        self.bar.update(self.task, advance=1, said=self._said(training))

    def _said(self, training: Training) -> str:
        rate = self.timed / max(time.perf_counter() - self.since, 1e-9)
        said = [f"{rate:.{1 if rate < 10 else 0}f} steps/s"] if self.timed else []
        if math.isfinite(training.loss):
            said.append(f"loss {training.loss:.2f}")
        if self.timed and training.batches:
            left = training.epochs * training.batches - training.step
            said.append(f"{timedelta(seconds=round(left / rate))} left")
        return ", ".join(said)

    def finished_epoch(self, training: Training) -> None:
        """Print a line, and reset the bar for the next epoch."""
        last = training.history.epochs[-1]
        if last.epoch % self.every == 0:
            self._print(last, self.steps)
        if last.epoch < training.epochs:
            self.bar.update(
                self.task, total=training.batches, completed=0, epoch=last.epoch + 1, said=""
            )
        self._count()

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
    """Stop when the validation ELBO has not improved for some epochs; keep the best parameters.

    An ELBO that is not finite is no best one. If that of no epoch is finite, the parameters of the
    last epoch are kept, with a warning.

    Args:
        patience: the number of epochs without a new best, 1 or more.

    Raises:
        ValueError: if `patience` is less than 1; from `fit`, if there are no validation data.

    References:
        Prechelt, 1998. Early Stopping - But When?

    Example:
        >>> from pyrovae import EarlyStopping, ProgressBar
        >>> callbacks = [ProgressBar(), EarlyStopping(patience=5)]
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f"patience is at least one epoch; got {patience}")
        self.patience = patience

    def started(self, training: Training) -> None:
        """Reset the best ELBO."""
        if not training.validated:
            raise ValueError("EarlyStopping needs validation data: fit(..., validation=x)")
        self.best, self.waited = -math.inf, 0
        self.kept = training.snapshot()

    def finished_epoch(self, training: Training) -> None:
        """Compare the validation ELBO with the best so far."""
        elbo = training.history.epochs[-1].validation_elbo
        if math.isfinite(elbo) and elbo > self.best:
            self.best, self.waited, self.kept = elbo, 0, training.snapshot()
            return
        self.waited += 1
        self._stop_if_exhausted()

    def resumed(self, training: Training) -> None:
        """Stop at once if the earlier training ran out of patience."""
        self._stop_if_exhausted()

    def _stop_if_exhausted(self) -> None:
        if self.waited >= self.patience:
            known = math.isfinite(self.best)
            found = f"best {self.waited} epochs ago" if known else "not finite in any epoch"
            raise StopTraining(f"the validation ELBO was {found}")

    def state_dict(self) -> dict[str, Any]:
        """Return the best ELBO, its parameters, and the number of epochs since."""
        return {"best": self.best, "waited": self.waited, "kept": self.kept.as_tree()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an earlier training."""
        self.best, self.waited = state["best"], state["waited"]
        self.kept = Snapshot.of_tree(state["kept"])

    def finished(self, training: Training) -> None:
        """Restore the best parameters."""
        if not training.history.epochs or not hasattr(self, "kept"):
            return
        if math.isfinite(self.best):
            training.restore(self.kept)
            return
        warnings.warn(
            "the validation ELBO was not finite in any epoch, so that none is the best: the "
            "parameters of the last epoch are kept",
            stacklevel=2,
        )
