"""Train a model and a guide by SVI.

What a step descends may be weighted or tempered. The history shows it as the loss, beside the
ELBO, rate and distortion, which `log_weights` measures at the end of each epoch on fixed data and
noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import pyro.optim
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.datasets import drawn_once
from pyrovae.data.ranks import Ranks
from pyrovae.objectives import Objective
from pyrovae.objectives.handlers import kl_weight
from pyrovae.randomness import Steps, seeded
from pyrovae.runs.checkpoints import Checkpoints
from pyrovae.train.accumulation import scaled_size
from pyrovae.train.callbacks import Callback, History, ProgressBar, Training
from pyrovae.train.checkpoint import Checkpoint
from pyrovae.train.distributed import together
from pyrovae.train.dry_run import attempt, check, check_announced, hidden_by_store, warn_if_far
from pyrovae.train.failures import NonFiniteLoss
from pyrovae.train.loop import Loop
from pyrovae.train.monitor import BATCH, DATA, Monitor
from pyrovae.train.resume import first_rows
from pyrovae.train.step import Step, default_loss
from pyrovae.train.svi import SVI
from pyrovae.types import Data, Program, Target
from pyrovae.vae import VAE
from pyrovae.weights.run import run
from pyrovae.weights.stored import ParamSites
from pyrovae.weights.target import (
    buffers_kept,
    device_of,
    intake_of,
    keep_steps,
    parameters_kept,
    programs,
    safe_to_compile,
    steps_of,
)

__all__ = ["COMPILED_FROM", "NonFiniteLoss", "Step", "fit"]

COMPILED_FROM: Final = 5000
"""The number of steps from which a step is compiled by default.

Compiling takes about ten seconds, and saves 2 ms or more per step.
"""


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
    resume: str | Path | None = None,
) -> History:
    r"""Train a VAE, or any pair of Pyro programs, by stochastic variational inference.

    By default the ELBO $E_q[\log p(x, z) - \log q(z | x)]$ is maximized by Adam; `Step` sets
    another objective or optimizer.

    After `torch.distributed.init_process_group()`, as under torchrun, all processes of the group
    train together, each on its own device; all of them have to call `fit` with the same data.
    Each takes `batch_size` data of a joint batch, and steps are those of one process with the
    joint batch: the gradients are summed by one all-reduce (see `pyrovae.train.distributed`).
    Every batch of an iterable goes to one process; a `DataLoader` with a `DistributedSampler`
    keeps its own. The measurements of an epoch are of all data. Statistics of batch normalization
    are those of rank 0, and an objective that is no sum over data, such as one of the aggregate
    posterior, is estimated on each part. Rank 0 alone writes and decides on the end. If a process
    dies, the others raise `pyrovae.data.ranks.ProcessLost`.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: an array [N, ...] (of torch, NumPy, SciPy's sparse matrices, AnnData, or a frame of
            pandas, polars or Arrow), a tuple (x, *context), a `data.Split`, the path of an .npy
            or .parquet file, a torch `Dataset` (of pairs with labels, in `data.Labeled`), an
            iterable of batches such as a `DataLoader`, or a function that returns an iterator of
            batches. A dynamic split is binarized anew in each batch. `data.Streamed` keeps data
            where they are; `data.Transformed` transforms each batch.
        validation: data of the same forms, for the ELBO at the end of each epoch. A dynamic split
            is binarized once, as by `evaluate`.
        epochs: the number of passes over the data.
        batch_size: the number of data in a batch; an iterable of batches has its own.
        step: the objective, KL weight, handlers and optimizer.
        seed: the seed of shuffling, binarization and noise; torch's generators are restored
            afterwards. The default is 0 for an untrained target and then follows from the last
            training, so that further training draws fresh noise. None draws from the present
            generators.
        callbacks: called during training, in this order; None is a `ProgressBar`.
            `Checkpoint` comes after the others, whose states it writes.
        resume: the folder of a `Checkpoint`, from whose latest state the training goes on, with
            the same data, step and callbacks. It ends with the parameters of a training that was
            never broken off, bit for bit on the same machine with the same number of threads.
            The generators of torch, Python and NumPy continue from the state, and a checkpoint
            that is damaged is passed over with a warning. On another number of processes, with
            the same joint batch, it is equal to that training in distribution, with a warning.

    Returns:
        The history, per datum and in nats. The target has the parameters of the last epoch, or of
        the best one with `EarlyStopping`. Ctrl-C ends training after the last whole epoch.

    Raises:
        NonFiniteLoss: if the loss is NaN or infinite, naming the step and the site. The parameters
            are restored to the end of the last good epoch.
        ValueError: for data that the programs cannot take, and as `log_weights`; and for a
            folder to resume from without a whole checkpoint, or with one of other programs, data
            or callbacks.

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
    callbacks.sort(key=lambda callback: isinstance(callback, Checkpoint))
    resumed = None if resume is None else _latest(Path(resume))
    steps = steps_of(target) if seed == "next" else Steps(seed)
    keep_steps(target, steps)  # before any step, as graphs guard the attributes of the target
    ranks = Ranks.present()
    with seeded(steps.next_seed):
        device, intake = device_of(target), intake_of(target)
        batches = Batches(
            *(data, batch_size), shuffle=True, device=device, intake=intake, ranks=ranks
        )
        if validation is not None:
            validation = Batches(drawn_once(validation), BATCH, device=device, intake=intake)
        shown = Monitor(batches.in_order(BATCH, first=DATA), validation, steps.seed)
        if step.compile is None:
            long = epochs * (batches.number or 0) >= COMPILED_FROM
            step = replace(step, compile=long and _is_safe_to_compile(target, step))
        svi, weight, parameters, size = _prepare(target, shown, batches, step)
        scaled = size > 0
        training = Training(
            *(target, parameters, epochs, step.steps_in(batches.number)),
            compiled=svi.compiled,
            resumed="" if resume is None else str(resume),
            optimizer=svi.optim,
            validated=validation is not None,
        )
        if isinstance(step.loss, Objective):
            training.history.objective = str(step.loss)
        loop = Loop(
            *(training, svi, batches),
            weight=weight,
            step=step,
            monitor=shown,
            callbacks=callbacks,
            before=steps,
            resumed=resumed,
            size=size,
            together=together(training, batches, steps, scaled=scaled) if ranks.several else None,
        )
        loop.run()
    return training.history


def _latest(folder: Path) -> Any:
    """Return the latest whole state in a folder, and warn of those that are damaged."""
    state, remarks = Checkpoints(folder).newest()
    for remark in remarks:
        warnings.warn(f"{remark}: the training resumes from the one before", stacklevel=3)
    return state


def _is_safe_to_compile(target: Target, step: Step) -> bool:
    """Tell whether the target and the handlers are the library's own."""
    return safe_to_compile(target) and step.has_library_handlers()


def _prepare(
    target: Target, shown: Monitor, batches: Batches, step: Step
) -> tuple[SVI, kl_weight, dict[str, Tensor], int]:
    """Check the data and the programs on a batch.

    Returns:
        The SVI, the KL weight, the parameters by name, and the number of data that the programs
        scale the loss of a batch to, 0 if they do not.
    """
    model, guide = programs(target)
    with seeded(0), buffers_kept(target), parameters_kept(target):
        if shown.validation is not None:
            check(target, shown.validation)
        x, *context = check(target, shown.train)
        if batches.fewest == 1:
            attempt(model, guide, (x[:1], *(value[:1] for value in context)))
        default = default_loss(model, guide, x, *context)
        size = 0 if isinstance(target, VAE) else _scaled_size(model, guide, (x, *context))
        model, guide = step.handled(model, guide)
        with ParamSites() as sites, poutine.trace(param_only=True) as capture:
            log_w = run(model, guide, x, *context, particles=1).log_w
        if batches.intake.domain is constraints.real:
            warn_if_far(x, log_w)
    parameters = sites.leaves
    check_announced(log_w, sites, hidden_by_store(capture.trace))
    if isinstance(default, TraceEnum_ELBO) and step.kl_weight != 1.0:
        raise ValueError(
            "a KL weight cannot be applied to sites that are summed out: leave it at 1"
        )
    weight = kl_weight(1.0)
    if step.kl_weight != 1.0:
        model, guide = weight(model), weight(guide)
    optim = step.optim or pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(
        *(model, guide, optim, step.loss or default),
        compile=bool(step.compile),
        clip_norm=step.clip_norm,
    )
    return svi, weight, parameters, size


def _scaled_size(model: Program, guide: Program, batch: Batch) -> int:
    """Return the number of data that the programs scale the loss of a batch to, 0 if none."""
    few = first_rows(batch, len(batch[0]) // 2 or 1)  # fewer than a plate of all data
    try:
        return scaled_size(model, guide, *few)
    except (ValueError, RuntimeError, IndexError):  # programs of batches of one size
        return scaled_size(model, guide, *batch)
