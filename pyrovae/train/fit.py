"""One loop that trains a pair of Pyro programs with SVI, and measures it apart from training.

The objective is what a step descends: it may be weighted or tempered. The history shows it beside
the true ELBO, rate and distortion, which are measured by `log_weights` at each epoch's end on
data and noise that stay the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import pyro.optim
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.datasets import drawn_once
from pyrovae.graphs.quiet import without_cuda_notice
from pyrovae.objectives import Objective
from pyrovae.objectives.handlers import Handler, kl_weight
from pyrovae.randomness import Steps, seeded
from pyrovae.train.callbacks import Callback, Epoch, History, ProgressBar, StopTraining, Training
from pyrovae.train.dry_run import attempt, check, sentence
from pyrovae.train.monitor import BATCH, DATA, Monitor
from pyrovae.train.svi import SVI
from pyrovae.types import ContextValue, Data, Program, Target
from pyrovae.weights.kl import latent_order
from pyrovae.weights.run import run
from pyrovae.weights.sites import UndefinedWeight, check_supports, one_line, sample_sites
from pyrovae.weights.target import (
    buffers_kept,
    check_data,
    device_of,
    keep_steps,
    programs,
    safe_to_compile,
    steps_of,
)
from pyrovae.weights.traces import trace_pair

COMPILED_FROM: Final = 5000
"""The steps from which compiling is the default: ten seconds of it, at 2 ms or more a step."""


@dataclass(frozen=True)
class Step:
    """What one step of training is: an objective, its KL weight and handlers, an optimiser.

    Attributes:
        optim: a Pyro optimiser; Adam at 1e-3 where it is None. A scheduler
            advances each epoch; `ReduceLROnPlateau` is told the validation ELBO, else the loss.
        loss: an objective of `pyro.infer`. Where it is None: `TraceEnum_ELBO` if a site is
            enumerated, else `TraceMeanField_ELBO` if every latent is reparameterised and both
            programs sample in the same order, else `Trace_ELBO`.
        kl_weight: a number, or a function of the epochs gone by (a fraction within an epoch),
            such as `schedules.linear(0, 1, 10)` for a warm-up.
        handlers: of `pyrovae.handlers`, such as `[free_bits(0.1)]`: the step descends the
            objective of the programs that they wrap, and the history shows it as the loss.
        compile: whether `pyrovae.SVI` compiles the step. Where it is None: in trainings of
            5,000 steps or more, of a VAE made of the library's parts.
    """

    optim: PyroOptim | None = None
    loss: ELBO | None = None
    kl_weight: float | Callable[[float], float] = 1.0
    handlers: Sequence[Handler] = ()
    compile: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a weight that is neither a number nor a schedule."""
        if not (callable(self.kl_weight) or isinstance(self.kl_weight, int | float)):
            raise ValueError(
                "kl_weight is a number, or a function of the epochs gone by such as "
                f"schedules.linear(0, 1, 10); got {self.kl_weight!r}"
            )


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the parameters are those of the last good checkpoint."""


def fit(
    target: Target,
    data: Data,
    *,
    validation: Data | None = None,
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
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
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
        raise NonFiniteLoss(f"{broken}. {_kept(training)}") from broken.__cause__ or broken


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
        broken = _broken(training.parameters)
        if broken:
            raise NonFiniteLoss(_describe(training, "the next loss is not defined", broken))
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
        cause = _broken(training.parameters) if isinstance(error, ValueError) else ""
        if not cause and (isinstance(error, UndefinedWeight) or "invalid values" in str(error)):
            cause = one_line(error)
        if not cause:
            raise _failed(training, batch, error) from error
        raise NonFiniteLoss(_describe(training, "the loss is not defined", cause)) from error
    if not math.isfinite(loss):
        cause = _locate(training, batch)
        raise NonFiniteLoss(_describe(training, f"the loss is {loss}", cause))
    svi.update(parameters)
    return float(loss)


def _failed(training: Training, batch: Batch, error: Exception) -> Exception:
    """Return the error of a step in one sentence; what Pyro and torch print is its cause."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(one_line(error))
    where = f"at step {training.step + 1} (epoch {len(training.history.epochs) + 1}), "
    return ValueError(sentence(batch, error, where))


def _read(training: Training, losses: list[float | Tensor]) -> list[float]:
    """Read the losses of an epoch that the GPU still holds, all at once."""
    unread = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(unread).tolist() if unread else ())
    read = [next(values) if isinstance(loss, Tensor) else loss for loss in losses]
    bad = [i for i, loss in enumerate(read) if not math.isfinite(loss)]
    if bad:
        training.step += bad[0] - len(losses)
        cause = "losses on a GPU are read at an epoch's end; Step(compile=False) names the site"
        raise NonFiniteLoss(_describe(training, f"the loss is {read[bad[0]]}", cause))
    return read


def _describe(training: Training, met: str, cause: str) -> str:
    return f"{met} at step {training.step + 1} (epoch {len(training.history.epochs) + 1}): {cause}"


def _kept(training: Training) -> str:
    epoch = training.epoch
    good = f"the end of epoch {epoch}" if epoch else "their values before the first step"
    return (
        f"The parameters are put back to the last good checkpoint, {good}. Try a smaller learning "
        "rate, or clip the gradient: pyro.optim.ClippedAdam"
    )


def _locate(training: Training, batch: Batch) -> str:
    """Name the sites whose terms are not finite on a batch."""
    broken = _broken(training.parameters)
    if broken:
        return broken
    model, guide = programs(training.target)
    with torch.no_grad():
        terms = run(model, guide, *batch, particles=1)
    sites = {**terms.guide, **terms.prior, **terms.likelihood}
    bad = [name for name, term in sites.items() if not torch.isfinite(term).all()]
    if bad:
        return f"the log-probability of site {' and '.join(map(repr, bad))} is not finite"
    return "the log-probabilities are finite at another draw, so the noise of this step did it"


def _broken(parameters: dict[str, Tensor]) -> str:
    names = [name for name, tensor in parameters.items() if not torch.isfinite(tensor).all()]
    if not names:
        return ""
    return f"the step before left {len(names)} parameters not finite, the first {names[0]!r}"


def _prepare(
    target: Target, shown: Monitor, batches: Batches, step: Step
) -> tuple[SVI, kl_weight, dict[str, Tensor]]:
    """Check the data and run the programs on a batch: errors come before the first step."""
    model, guide = programs(target)
    with seeded(0), buffers_kept(target):
        if shown.validation is not None:
            check(target, shown.validation)
        x, *context = check(target, shown.train)
        if batches.tensors and len(batches.tensors[0]) % batches.batch_size == 1:
            attempt(model, guide, (x[:1], *(value[:1] for value in context)))
        default = _default_loss(model, guide, x, *context)
        model, guide = _handled(model, guide, step.handlers)
        with poutine.trace(param_only=True) as capture:
            log_w = run(model, guide, x, *context, particles=1).log_w
    parameters = {
        name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()
    }
    _check_announced(log_w, parameters, _hidden(capture.trace))
    if isinstance(default, TraceEnum_ELBO) and step.kl_weight != 1.0:
        raise ValueError("a KL weight does not go with sites that are summed out: leave it at 1")
    weight = kl_weight(1.0)
    if step.kl_weight != 1.0:
        model, guide = weight(model), weight(guide)
    optim = step.optim or pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(model, guide, optim, step.loss or default, compile=bool(step.compile))
    return svi, weight, parameters


def _handled(model: Program, guide: Program, handlers: Any) -> tuple[Any, Any]:
    """Return the programs that the step trains."""
    if not isinstance(handlers, Sequence) or not all(isinstance(h, Handler) for h in handlers):
        raise ValueError(
            f"handlers are a list of those in pyrovae.handlers, such as [free_bits(0.1)]; got "
            f"{handlers!r}"
        )
    for handler in handlers:
        model, guide = handler.wrap(model, guide)
    return model, guide


def _check_announced(log_w: Tensor, parameters: dict[str, Tensor], hidden: list[str]) -> None:
    """Find the parameters that the programs use and no optimiser would be told of."""
    known = {id(parameter) for parameter in parameters.values()}
    silent = [leaf for leaf in _leaves(log_w) if id(leaf) not in known]
    if silent and hidden:
        raise ValueError(
            f"Pyro's store holds another parameter than the program's under {hidden[0]!r}, of an "
            "earlier module of the same name, and would train that one: pyro.clear_param_store() "
            "first, or give pyro.module another name"
        )
    if silent:
        raise ValueError(
            f"the programs use parameters of shapes {[tuple(leaf.shape) for leaf in silent]} that "
            "no part holds, so that nothing would train or save them: make the function an "
            "nn.Module that holds its network, or announce it with pyro.module"
        )
    if not parameters:
        raise ValueError("neither program has a parameter to train")


def _hidden(trace: Any) -> list[str]:
    """Name the parameters in whose place Pyro's store answered with another."""
    return [
        name
        for name, site in trace.nodes.items()
        for given in site["args"][1:]
        if isinstance(given, nn.Parameter) and site["value"].unconstrained() is not given
    ]


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that a value depends on and that ask for gradients."""
    waiting, seen, found = [tensor.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def _default_loss(model: Program, guide: Program, x: Tensor, *context: ContextValue) -> ELBO:
    model_trace, guide_trace = trace_pair(model, guide, x, *context, particles=1)
    check_supports(model_trace, guide_trace)
    latents = [
        site
        for trace in (model_trace, guide_trace)
        for _, site in sample_sites(trace)
        if not site["is_observed"]
    ]
    if any(site["infer"].get("_enumerate_dim") is not None for site in latents):
        return TraceEnum_ELBO(max_plate_nesting=1)
    same_order = latent_order(model_trace) == latent_order(guide_trace)
    if same_order and all(site["fn"].has_rsample for site in latents):
        return TraceMeanField_ELBO()
    return Trace_ELBO()
