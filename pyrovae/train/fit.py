"""One loop that trains a pair of Pyro programs with SVI, and measures it apart from training.

The objective is what a step descends: it may be weighted or tempered. The history shows it beside
the true ELBO, rate and distortion, which are measured by `log_weights` at each epoch's end on
data and noise that stay the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import pyro.optim
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.datasets import drawn_once
from pyrovae.graphs.quiet import without_cuda_notice
from pyrovae.objectives import Objective
from pyrovae.objectives.handlers import kl_weight
from pyrovae.randomness import Steps, seeded
from pyrovae.train.callbacks import Callback, Epoch, History, ProgressBar, StopTraining, Training
from pyrovae.train.dry_run import attempt, check, check_announced, hidden_by_store
from pyrovae.train.failures import NonFiniteLoss, describe, failed, kept, locate, not_finite
from pyrovae.train.monitor import BATCH, DATA, Monitor
from pyrovae.train.step import Step, default_loss, handled
from pyrovae.train.svi import SVI
from pyrovae.vae import (
    buffers_kept,
    check_data,
    device_of,
    keep_steps,
    programs,
    safe_to_compile,
    steps_of,
)
from pyrovae.weights.log_weights import run
from pyrovae.weights.sites import UndefinedWeight, one_line

__all__ = ["COMPILED_FROM", "NonFiniteLoss", "Step", "fit"]

COMPILED_FROM: Final = 5000
"""The steps from which compiling is the default: ten seconds of it, at 2 ms or more a step."""


def fit(
    target: Any,
    data: Any,
    *,
    validation: Any = None,
    epochs: int = 20,
    batch_size: int = 100,
    step: Step | None = None,
    seed: int | Literal["next"] | None = "next",
    callbacks: Sequence[Callback] | None = None,
) -> History:
    """Train a VAE, or any pair of Pyro programs, by stochastic variational inference.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: a tensor, a tuple (x, *context), a `data.Split` (binarised afresh in each batch if
            it is dynamic), a torch `Dataset` or an iterable of batches.
        validation: the same, for the ELBO at each epoch's end; a dynamic split is binarised once,
            as by `evaluate`.
        epochs: walks over the data.
        batch_size: data in a step; an iterable of batches keeps its own.
        step: objective, KL weight, handlers and optimiser.
        seed: of order, binarisation and noise; torch's generators are put back afterwards. By
            default 0 for a target that was never trained, and then one that follows from the seed
            of its last training and the steps since, so that training on draws fresh noise. None
            draws from the generators as they stand.
        callbacks: what happens beside; a `ProgressBar` by default. Those given last end last.

    Returns:
        The history. Ctrl-C ends the training with the last whole epoch.

    Raises:
        NonFiniteLoss: if the loss is NaN or infinite, naming the step and the site; the
            parameters are put back to the end of the last good epoch.
        ValueError: for data that the programs cannot take, and as `log_weights`.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.
        Hoffman, Blei, Wang, Paisley, 2013. Stochastic Variational Inference.

    Example:
        >>> import pyrovae as pv
        >>> digits = pv.data.load("digits")
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> history = pv.fit(vae, digits.train, epochs=2, callbacks=[])
        >>> history.column("elbo")[1] > history.column("elbo")[0]
        True
    """
    step = step or Step()
    if epochs < 1:
        raise ValueError(f"training takes at least one epoch; got epochs={epochs}")
    callbacks = [ProgressBar()] if callbacks is None else list(callbacks)
    steps = steps_of(target) if seed == "next" else Steps(seed)
    keep_steps(target, steps)  # from the first step on, for graphs of the step to stand
    with seeded(steps.next_seed), without_cuda_notice():
        device = device_of(target)
        batches = Batches(data, batch_size, shuffle=True, device=device)
        held = None
        if validation is not None:
            held = Batches(drawn_once(validation), BATCH, device=device)
        shown = Monitor(batches.in_order(BATCH, first=DATA), held, steps.seed)
        if step.compile is None:
            long = epochs * (batches.number or 0) >= COMPILED_FROM
            step = replace(step, compile=long and safe_to_compile(target))
        svi, weight, parameters = _prepare(target, shown, batches, step)
        training = Training(target, parameters, epochs, batches.number, compiled=svi.compiled)
        if isinstance(step.loss, Objective):
            training.history.objective = str(step.loss)
        _train(training, svi, batches, _Beside(weight, step, shown, callbacks, steps))
    return training.history


@dataclass(frozen=True)
class _Beside:
    """What the loop consults beside the step."""

    weight: kl_weight
    step: Step
    monitor: Monitor
    callbacks: Sequence[Callback]
    before: Steps

    def remember_steps(self, training: Training) -> None:
        taken = self.before.taken + training.step
        keep_steps(training.target, replace(self.before, taken=taken))

    def weigh(self, epochs: float) -> None:
        wanted = self.step.kl_weight
        self.weight.beta = wanted(epochs) if callable(wanted) else wanted


def _train(training: Training, svi: SVI, batches: Batches, beside: _Beside) -> None:
    training.forget_gradients()
    broken: NonFiniteLoss | None = None
    try:
        for callback in beside.callbacks:
            callback.started(training)
        for epoch in range(1, training.epochs + 1):
            training.history.epochs.append(_epoch(epoch, training, svi, batches, beside))
            if isinstance(svi.optim, PyroLRScheduler):
                _advance(svi.optim, training.history.epochs[-1])
            for callback in beside.callbacks:
                callback.finished_epoch(training)
    except StopTraining as reason:
        training.history.ended = f"stopped early: {reason}"
    except KeyboardInterrupt:
        training.history.ended = "interrupted"
    except NonFiniteLoss as error:
        broken, training.history.ended = error, f"broken off: {error}"
    finally:
        beside.remember_steps(training)
        for callback in beside.callbacks:
            callback.finished(training)
        training.history.kept = training.epoch
        for callback in beside.callbacks:
            callback.ended(training)
    if broken is not None:  # only now is it known which parameters the callbacks kept
        raise NonFiniteLoss(f"{broken}. {kept(training)}") from broken.__cause__ or broken


def _advance(optim: PyroLRScheduler, epoch: Epoch) -> None:
    """Let a scheduler end an epoch; one that waits for a plateau is told the validation ELBO.

    The number falls as the training gets better, or rises where the scheduler's mode is "max".
    """
    for scheduler in optim.optim_objs.values():
        if isinstance(scheduler, ReduceLROnPlateau):
            validated = not math.isnan(epoch.validation_elbo)
            elbo = epoch.validation_elbo if validated else -epoch.loss
            scheduler.step(elbo if scheduler.mode == "max" else -elbo)
        else:
            scheduler.step()


def _epoch(number: int, training: Training, svi: SVI, batches: Batches, beside: _Beside) -> Epoch:
    """Walk over the data and measure; put the parameters back if either does not end.

    An interrupt may come in the middle of a step: what is left is then the last whole epoch, of
    which the history tells.
    """
    good = training.snapshot()
    try:
        loss, seconds = _walk(training, svi, batches, beside)
        broken = not_finite(training.parameters)
        if broken:
            raise NonFiniteLoss(describe(training, "the next loss is not defined", broken))
        measured = beside.monitor.measure(training.target)
    except BaseException:
        training.restore(good)
        raise
    training.epoch = number
    beside.remember_steps(training)
    return Epoch(number, loss, kl_weight=beside.weight.beta, seconds=seconds, **measured)


def _walk(training: Training, svi: SVI, batches: Batches, beside: _Beside) -> tuple[float, float]:
    """Take one step on each batch; return the mean loss per datum and the seconds spent."""
    compiling, started, count = svi.compile_seconds, time.perf_counter(), 0
    losses: list[float | Tensor] = []
    done = len(training.history.epochs)
    for number, batch in enumerate(batches):
        if not batches.tensors:
            check_data(training.target, *batch)
        beside.weigh(done + (number / training.batches if training.batches else 0.0))
        losses.append(_step(training, svi, batch))
        count += len(batch[0])
        training.step += 1
        if not isinstance(losses[-1], Tensor):
            training.loss = losses[-1] / len(batch[0])
        for callback in beside.callbacks:
            callback.stepped(training)
    training.batches = batches.number
    read = _read(training, losses)
    training.loss = read[-1] / len(batch[0])
    compiling = svi.compile_seconds - compiling
    training.history.compile_seconds += compiling
    return sum(read) / count, time.perf_counter() - started - compiling


def _step(training: Training, svi: SVI, batch: Batch) -> float | Tensor:
    """Take a step; on a GPU it may be launched only, and its loss be a tensor not yet read."""
    try:
        launched = svi.launch(*batch)
        if launched is not None:
            return launched
        loss, parameters = svi.gradients(*batch)
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
    svi.update(parameters)
    return float(loss)


def _read(training: Training, losses: list[float | Tensor]) -> list[float]:
    """Read the losses of an epoch that the GPU still holds, all at once."""
    unread = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(unread).tolist() if unread else ())
    read = [next(values) if isinstance(loss, Tensor) else loss for loss in losses]
    bad = [i for i, loss in enumerate(read) if not math.isfinite(loss)]
    if bad:
        training.step += bad[0] - len(losses)
        cause = "losses on a GPU are read at an epoch's end; Step(compile=False) names the site"
        raise NonFiniteLoss(describe(training, f"the loss is {read[bad[0]]}", cause))
    return read


def _prepare(
    target: Any, shown: Monitor, batches: Batches, step: Step
) -> tuple[SVI, kl_weight, dict[str, Tensor]]:
    """Check the data and run the programs on a batch: errors come before the first step."""
    model, guide = programs(target)
    with seeded(0), buffers_kept(target):
        if shown.validation is not None:
            check(target, shown.validation)
        x, *context = check(target, shown.train)
        if batches.tensors and len(batches.tensors[0]) % batches.batch_size == 1:
            attempt(model, guide, (x[:1], *(value[:1] for value in context)))
        default = default_loss(model, guide, x, *context)
        model, guide = handled(model, guide, step.handlers)
        with poutine.trace(param_only=True) as capture:
            log_w = run(model, guide, x, *context, particles=1).log_w
    parameters = {
        name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()
    }
    check_announced(log_w, parameters, hidden_by_store(capture.trace))
    if isinstance(default, TraceEnum_ELBO) and step.kl_weight != 1.0:
        raise ValueError("a KL weight does not go with sites that are summed out: leave it at 1")
    weight = kl_weight(1.0)
    if step.kl_weight != 1.0:
        model, guide = weight(model), weight(guide)
    optim = step.optim or pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(model, guide, optim, step.loss or default, compile=bool(step.compile))
    return svi, weight, parameters
