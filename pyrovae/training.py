"""One loop that trains a pair of Pyro programs with SVI, and measures it apart from training.

The objective is what a step descends: it may be weighted or tempered. The history shows it beside
the true ELBO, rate and distortion, which are measured by `log_weights` at each epoch's end on
data and noise that stay the same.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyro.optim
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyrovae.callbacks import Callback, Epoch, History, ProgressBar, StopTraining, Training
from pyrovae.data import Batch, Batches, seeded
from pyrovae.handlers import kl_weight
from pyrovae.kl import latent_order
from pyrovae.vae import check_data, evaluation_mode, programs
from pyrovae.weights import log_weight_terms, run, sample_sites, trace_pair

MONITORED: Final = 2000
"""How many training data the ELBO at an epoch's end is measured on."""

MONITOR_BATCH: Final = 500


@dataclass(frozen=True)
class Step:
    """What one step of training is: an objective, its KL weight, an optimiser.

    Attributes:
        optim: a Pyro optimiser; Adam at 1e-3 where it is None. A scheduler advances each epoch.
        loss: an objective of `pyro.infer`. Where it is None: `TraceEnum_ELBO` if a site is
            enumerated, else `TraceMeanField_ELBO` if every latent is reparameterised and both
            programs sample in the same order, else `Trace_ELBO`.
        kl_weight: a number, or a function of the epochs gone by (a fraction within an epoch),
            such as `lambda epochs: min(1.0, epochs / 10)` for a linear warm-up.
    """

    optim: PyroOptim | None = None
    loss: ELBO | None = None
    kl_weight: float | Callable[[float], float] = 1.0


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the parameters are those of the last good checkpoint."""


def fit(
    target: Any,
    data: Any,
    *,
    validation: Any = None,
    epochs: int = 20,
    batch_size: int = 100,
    step: Step | None = None,
    seed: int | None = 0,
    callbacks: Sequence[Callback] | None = None,
) -> History:
    """Train a VAE, or any pair of Pyro programs, by stochastic variational inference.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: a tensor, a tuple (x, *context), a `data.Split` (binarised afresh in each batch if
            it is dynamic), a torch `Dataset` or an iterable of batches.
        validation: the same, for the ELBO at each epoch's end.
        epochs: walks over the data.
        batch_size: data in a step; an iterable of batches keeps its own.
        step: objective, KL weight and optimiser.
        seed: of order, binarisation and noise; torch's generators are put back afterwards. None
            draws from them as they stand.
        callbacks: what happens beside; a `ProgressBar` by default. Those given last end last.

    Returns:
        The history. Ctrl-C ends the training with what there is.

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
    with seeded(seed):
        batches = Batches(data, batch_size, shuffle=True)
        monitors = _monitors(data, validation, batch_size)
        svi, weight, parameters = _prepare(target, data, batch_size, step)
        training = Training(target, parameters, epochs, len(batches))
        _train(training, svi, batches, _Beside(weight, step, monitors, callbacks, seed))
    return training.history


@dataclass(frozen=True)
class _Beside:
    """What the loop consults beside the step."""

    weight: kl_weight
    step: Step
    monitors: tuple[Batches, Batches | None]
    callbacks: Sequence[Callback]
    seed: int | None

    def weigh(self, epochs: float) -> None:
        wanted = self.step.kl_weight
        self.weight.beta = wanted(epochs) if callable(wanted) else wanted


def _train(training: Training, svi: SVI, batches: Batches, beside: _Beside) -> None:
    for callback in beside.callbacks:
        callback.started(training)
    try:
        for epoch in range(1, training.epochs + 1):
            good = training.snapshot()
            try:
                loss, seconds = _walk(training, svi, batches, beside)
            except Exception:
                training.restore(good)
                raise
            measured = _measure(training.target, beside.monitors, beside.seed)
            training.history.epochs.append(
                Epoch(epoch, loss, kl_weight=beside.weight.beta, seconds=seconds, **measured)
            )
            if isinstance(svi.optim, PyroLRScheduler):
                svi.optim.step()
            for callback in beside.callbacks:
                callback.finished_epoch(training)
    except StopTraining as reason:
        training.history.ended = f"stopped early: {reason}"
    except KeyboardInterrupt:
        training.history.ended = "interrupted"
    finally:
        for callback in beside.callbacks:
            callback.ended(training)


def _walk(training: Training, svi: SVI, batches: Batches, beside: _Beside) -> tuple[float, float]:
    """Take one step on each batch; return the mean loss per datum and the seconds spent."""
    started, total, count = time.perf_counter(), 0.0, 0
    for batch in batches:
        beside.weigh(training.step / training.batches)
        loss = _step(training, svi, batch)
        total, count = total + loss, count + len(batch[0])
        training.step += 1
        training.loss = loss / len(batch[0])
        for callback in beside.callbacks:
            callback.stepped(training)
    return total / count, time.perf_counter() - started


def _step(training: Training, svi: SVI, batch: Batch) -> float:
    try:
        return float(svi.step(*batch))
    except _NotFinite as error:
        cause = _locate(training, batch)
        raise NonFiniteLoss(_describe(training, f"the loss is {error}", cause)) from None
    except ValueError as error:
        cause = _broken(training.parameters)
        if not cause and "invalid values" in str(error):
            cause = str(error).partition(": tensor(")[0].replace("\n", " ")
        if not cause:
            raise
        raise NonFiniteLoss(_describe(training, "the loss is not defined", cause)) from error


def _describe(training: Training, met: str, cause: str) -> str:
    epochs = len(training.history.epochs)
    good = f"the end of epoch {epochs}" if epochs else "their values before the first step"
    return (
        f"{met} at step {training.step + 1} (epoch {epochs + 1}): {cause}. The parameters are put "
        f"back to the last good checkpoint, {good}. Try a smaller learning rate, or clip the "
        "gradient: pyro.optim.ClippedAdam"
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


class _NotFinite(Exception):  # noqa: N818
    """The loss of a step, met before its gradient reached the parameters."""


def _prepare(
    target: Any, data: Any, batch_size: int, step: Step
) -> tuple[SVI, kl_weight, dict[str, Tensor]]:
    """Run the programs once on the first batch: errors come before the first step."""
    model, guide = programs(target)
    with seeded(0):
        x, *context = next(iter(Batches(data, batch_size)))
        check_data(target, x)
        loss = step.loss or _default_loss(model, guide, x, *context)
        with poutine.trace(param_only=True) as capture:
            run(model, guide, x, *context, particles=1)
    parameters = {
        name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()
    }
    if not parameters:
        raise ValueError(
            "neither program has a parameter to train: a function that uses a network registers "
            "it with pyro.module, or becomes an nn.Module that holds it"
        )
    weight = kl_weight(1.0)
    optim = step.optim or pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(weight(model), weight(guide), optim, loss)
    svi.loss_and_grads = _guarded(svi.loss_and_grads)
    return svi, weight, parameters


def _guarded(loss_and_grads: Callable[..., Any]) -> Callable[..., Any]:
    def finite(*args: Any, **kwargs: Any) -> Any:
        loss = loss_and_grads(*args, **kwargs)
        if not math.isfinite(loss):
            raise _NotFinite(loss)
        return loss

    return finite


def _default_loss(model: Any, guide: Any, x: Tensor, *context: Any) -> ELBO:
    model_trace, guide_trace = trace_pair(model, guide, x, *context, particles=1)
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


def _monitors(data: Any, validation: Any, batch_size: int) -> tuple[Batches, Batches | None]:
    size = max(batch_size, MONITOR_BATCH)
    return Batches(data, size), None if validation is None else Batches(validation, size)


@torch.no_grad()
def _measure(
    target: Any, monitors: tuple[Batches, Batches | None], seed: int | None
) -> dict[str, float]:
    train, validation = monitors
    limited = itertools.islice(train, max(1, MONITORED // train.batch_size))
    found: dict[str, float] = {}
    for prefix, batches in (("", limited), ("validation_", validation)):
        with evaluation_mode(target), seeded(0 if seed is None else seed):
            measured = _elbo_rate_distortion(target, batches)
        names = ("elbo", "rate", "distortion")
        found |= {f"{prefix}{name}": value for name, value in zip(names, measured, strict=True)}
    return found


def _elbo_rate_distortion(target: Any, batches: Any) -> list[float]:
    if batches is None:
        return [math.nan] * 3
    model, guide = programs(target)
    rates, log_likelihoods = [], []
    for x, *context in batches:
        terms = log_weight_terms(model, guide, x, *context, particles=1)
        rates.append(terms.rate)
        log_likelihoods.append(terms.log_likelihood)
    rate = torch.cat(rates, dim=1).double().mean().item()
    log_likelihood = torch.cat(log_likelihoods, dim=1).double().mean().item()
    return [log_likelihood - rate, rate, -log_likelihood]
