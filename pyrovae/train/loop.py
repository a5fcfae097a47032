"""Run the training loop: epochs of steps, callbacks, measurements, and what to do on errors.

A training can begin in the middle of an epoch, where an earlier one was broken off (see
`pyrovae.train.resume`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.ranks import alone
from pyrovae.objectives.handlers import kl_weight
from pyrovae.randomness import Steps
from pyrovae.train.accumulation import averaged, grouped, rescale
from pyrovae.train.callbacks import Callback, Epoch, StopTraining, Training
from pyrovae.train.distributed import EpochEnded, Together
from pyrovae.train.failures import NonFiniteLoss, describe, failed, kept, locate, not_finite
from pyrovae.train.late import gradients
from pyrovae.train.moments import Moments
from pyrovae.train.monitor import Monitor
from pyrovae.train.optim import Optim
from pyrovae.train.resume import (
    EpochSoFar,
    Recordings,
    record_graphs,
    rest_of,
    restore,
    state_of,
)
from pyrovae.train.step import Step
from pyrovae.train.svi import SVI
from pyrovae.weights.sites import UndefinedWeight, one_line
from pyrovae.weights.target import buffers_of, check_data, keep_steps

__all__ = ["Loop"]


@dataclass
class Loop:
    """A training and everything it calls.

    Attributes:
        training: the state that callbacks see.
        svi: takes the steps.
        batches: the data.
        weight: the handler of the KL weight.
        step: gives the KL weight.
        monitor: measures at the end of each epoch.
        callbacks: in the order of their calls.
        before: the steps of the target before this training.
        size: the number of data that the programs scale the loss of a batch to, 0 if they do not.
        resumed: the state of an earlier training, from which this one goes on.
        so_far: the steps of the present epoch.
        recordings: the steps at which graphs were recorded.
        together: the processes that train together; None if this is the only one.
        begun: the callbacks whose `started` has returned.
        ready: whether steps can be taken: the earlier training, if any, is restored.
    """

    training: Training
    svi: SVI
    batches: Batches
    weight: kl_weight
    step: Step
    monitor: Monitor
    callbacks: Sequence[Callback]
    before: Steps
    size: int = 0
    resumed: Mapping[str, Any] | None = None
    so_far: EpochSoFar = field(default_factory=EpochSoFar)
    recordings: Recordings = field(default_factory=Recordings)
    together: Together | None = None
    begun: list[Callback] = field(default_factory=list)
    ready: bool = False

    @functools.cached_property
    def called(self) -> list[Callback]:
        """The callbacks that this process calls: one that writes is called by rank 0 alone."""
        return [c for c in self.callbacks if not (c.writes and self.batches.ranks.rank)]

    def run(self) -> None:
        """Train to the last epoch, a callback's stop, an interrupt or an error."""
        training = self.training
        training.forget_gradients()
        training.state = functools.partial(state_of, self)
        self.svi.norm.measured = any(each.needs_gradient_norm for each in self.callbacks)
        self.svi.before_compiling = functools.partial(self._tell, "compiling")
        broken: NonFiniteLoss | None = None
        try:
            self._start()
            while len(training.history.epochs) < training.epochs:
                self._epoch()
        except StopTraining as reason:
            training.history.ended = f"stopped early: {reason}"
        except KeyboardInterrupt:
            training.history.ended = "interrupted"
        except NonFiniteLoss as error:
            broken, training.history.ended = error, f"broken off: {error}"
        finally:
            self._end()
        if broken is not None:  # callbacks have decided by now which parameters are kept
            raise NonFiniteLoss(f"{broken}. {kept(training)}") from broken.__cause__ or broken

    def _start(self) -> None:
        """Start the callbacks, and go on from the earlier training."""
        for callback in self.called:
            self._call(callback, "started")
            self.begun.append(callback)
        if self.resumed is not None:
            restore(self, self.resumed)
        self.ready = True
        if self.resumed is not None:
            record_graphs(self, self.resumed)
            self._tell("resumed")

    def _end(self) -> None:
        if self.ready:
            self._remember_steps()
            for callback in self.called:
                self._call(callback, "finished")
        self.training.history.kept = self.training.epoch
        for callback in self.begun:
            self._call(callback, "ended")

    def _call(self, callback: Callback, event: str) -> None:
        """Call a method of a callback; one that writes may measure in its process alone."""
        if self.together is None or not callback.writes:
            getattr(callback, event)(self.training)
            return
        with alone():
            getattr(callback, event)(self.training)

    def _tell(self, event: str) -> None:
        """Call a method of every callback, then raise the first request to stop."""
        stop = None
        for callback in self.called:
            try:
                self._call(callback, event)
            except StopTraining as reason:
                stop = stop or reason
        if self.together is not None:
            stop = self.together.decide(event, stop)
        if stop is not None:
            raise stop

    def _epoch(self) -> None:
        """Take the steps of an epoch and measure; if either breaks off, restore what was before.

        An interrupt may come in the middle of a step. The parameters are then those of the last
        whole epoch, as in the history. A callback's request to stop comes between two steps: the
        epoch ends there.
        """
        training, stop = self.training, None
        good, moments = training.snapshot(), Moments(self.svi.optim)
        try:
            try:
                self._steps()
            except StopTraining as reason:
                if not self.so_far.losses:  # before the first step: the epoch has not begun
                    raise
                stop = reason
                self._tell("paused")
            loss = _mean_loss(training, self.so_far)
            broken = not_finite(training.parameters)
            if broken:
                raise NonFiniteLoss(describe(training, "the next loss is not defined", broken))
            if self.together is not None:
                self.together.ranks.overwrite(buffers_of(training.target).values())
            self._tell("measuring")
            measured = self.monitor.measure(training.target)
        except BaseException:
            training.restore(good)
            moments.restore()
            raise
        number, seconds = self.so_far.number, self.so_far.seconds
        training.epoch, training.partial = number, stop is not None
        self._remember_steps()
        weight = self.weight.beta
        epoch = Epoch(number, loss, kl_weight=weight, seconds=seconds, **measured)
        training.history.epochs.append(epoch)
        if stop is None:
            self.so_far = EpochSoFar(number + 1)
            if isinstance(self.svi.optim, PyroLRScheduler):
                _advance(self.svi.optim, _bound(training, epoch))
        self._tell("finished_epoch")
        if stop is not None:
            raise stop

    def _steps(self) -> None:
        """Take the steps that are left of the epoch."""
        training, so_far, started = self.training, self.so_far, time.perf_counter()
        if so_far.losses:  # none may be left, and the epoch has the weight of its last step
            self._set_weight(len(so_far.losses) - 1)
        self._tell("started_epoch")
        for group in self._left():
            compiling = self.svi.compile_seconds
            if not self.batches.tensors:
                for batch in group:
                    check_data(training.target, *batch)
            self._set_weight(len(so_far.losses))
            self._set_rate()
            try:
                loss, rows = _step(self, group)
            except EpochEnded:
                break
            if self.size:  # the loss of all data: its share of the step's data is kept
                loss = loss * (rows / self.size)
            so_far.add(loss, rows, batches=len(group))
            training.step += 1
            training.norm = self.svi.norm.value
            if not isinstance(loss, Tensor):
                training.loss = loss / so_far.last
            compiling, now = self.svi.compile_seconds - compiling, time.perf_counter()
            training.history.compile_seconds += compiling
            so_far.seconds += now - started - compiling
            started = now
            self._tell("stepped")
        steps = self.step.steps_in(self.batches.number)
        training.batches = steps if self.together is None else len(so_far.losses)

    def _left(self) -> Iterator[list[Batch]]:
        """Return the batches of the steps that are left in the epoch."""
        left = grouped(rest_of(self.batches, self.so_far), self.step.accumulate)
        return left if self.together is None else self.together.groups(left, self.training)

    def _note(self, batch: Batch) -> None:
        """Note the batch at which a graph was recorded, or the programs were observed for one."""
        if self.svi.observed_steps > len(self.recordings.steps):
            self.recordings.note(batch[0].shape, self.weight.beta)

    def _set_rate(self) -> None:
        """Set the learning rate of a step by the number of steps and the epochs so far."""
        optim, epochs = self.svi.optim, self.training.history.epochs
        if isinstance(optim, Optim):
            if len(optim.bounds) != len(epochs):
                optim.bounds = [_bound(self.training, epoch) for epoch in epochs]
            optim.at(self.training.step)

    def _set_weight(self, number: int) -> None:
        """Set the KL weight of a batch, by its number in the epoch."""
        fraction = number / self.training.batches if self.training.batches else 0.0
        wanted = self.step.kl_weight
        epochs = len(self.training.history.epochs) + fraction
        self.weight.beta = wanted(epochs) if callable(wanted) else wanted

    def _remember_steps(self) -> None:
        taken = self.before.taken + self.training.step
        keep_steps(self.training.target, replace(self.before, taken=taken))


def _bound(training: Training, epoch: Epoch) -> float:
    """Return the validation ELBO of an epoch if there are validation data, else minus the loss."""
    return epoch.validation_elbo if training.validated else -epoch.loss


def _advance(optim: PyroLRScheduler, bound: float) -> None:
    """Advance a scheduler by an epoch; `ReduceLROnPlateau` gets the validation ELBO or the loss.

    The number decreases as training improves, or increases if the scheduler's mode is "max".
    """
    for scheduler in optim.optim_objs.values():
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(bound if scheduler.mode == "max" else -bound)
        else:
            scheduler.step()


def _step(loop: Loop, group: Sequence[Batch]) -> tuple[float | Tensor, int]:
    """Take a step; return its loss and its data. After a CUDA graph, the loss is on the GPU."""
    if loop.together is not None:
        loss = loop.together.joint(group, functools.partial(_of_group, loop))
        loop.svi.update(loop.together.trained)
        return loss, loop.together.rows
    loss, parameters = _of_group(loop, group)
    if not isinstance(loss, Tensor):
        loop.svi.update(parameters)
    return loss, sum(len(batch[0]) for batch in group)


def _of_group(loop: Loop, group: Sequence[Batch]) -> tuple[Any, list[Tensor]]:
    """Return the loss of a step's batches, and the parameters with their gradients.

    If the whole step was launched as one graph, the loss is a tensor on the GPU.
    """
    losses: list[float] = []
    sizes = [len(batch[0]) for batch in group]
    parameters: dict[Tensor, None] = {}
    for number, batch in enumerate(group):
        if loop.size and number:
            rescale(parameters, sizes[number - 1] / sizes[number])
        launch = len(group) == 1 and loop.together is None
        taken = _gradients(loop.training, loop.svi, batch, launch=launch)
        loop._note(batch)
        if isinstance(taken, Tensor):
            return taken, []
        losses.append(taken[0])
        parameters.update(dict.fromkeys(taken[1]))
    if loop.size:
        rescale(parameters, sizes[-1] / sum(sizes))
    return averaged(losses, sizes) if loop.size else sum(losses), list(parameters)


def _gradients(
    training: Training, svi: SVI, batch: Batch, *, launch: bool
) -> Tensor | tuple[float, list[Tensor]]:
    """Return the loss and the parameters with gradients, or launch a whole step as one graph."""
    try:
        launched = svi.launch(*batch) if launch else None
        if launched is not None:
            return launched
        loss, parameters = gradients(training, svi, batch)
    except (ValueError, RuntimeError, IndexError) as error:
        cause = not_finite(training.parameters) if isinstance(error, ValueError) else ""
        if not cause and (isinstance(error, UndefinedWeight) or "invalid values" in str(error)):
            cause = one_line(error)
        if not cause:
            raise failed(training, batch, error) from error
        raise NonFiniteLoss(describe(training, "the loss is not defined", cause)) from error
    if not math.isfinite(loss):
        cause = locate(training, batch)
        raise NonFiniteLoss(describe(training, f"the loss is {loss}", cause))
    return float(loss), parameters


def _mean_loss(training: Training, so_far: EpochSoFar) -> float:
    """Return the mean loss per datum of the epoch's steps."""
    read = _read(training, so_far.losses)
    training.loss = read[-1] / so_far.last
    return sum(read) / so_far.count


def _read(training: Training, losses: list[float | Tensor]) -> list[float]:
    """Return the losses of an epoch as numbers, reading those on the GPU at once."""
    unread = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(unread).tolist() if unread else ())
    read = [next(values) if isinstance(loss, Tensor) else loss for loss in losses]
    bad = [i for i, loss in enumerate(read) if not math.isfinite(loss)]
    if bad:
        training.step += bad[0] - len(losses)
        cause = "losses on a GPU are read at an epoch's end; Step(compile=False) names the site"
        raise NonFiniteLoss(describe(training, f"the loss is {read[bad[0]]}", cause))
    return read
