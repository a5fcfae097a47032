"""Explain why a training step has failed, and where."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.data.batches import Batch
from pyrovae.train.callbacks import Training
from pyrovae.train.dry_run import sentence
from pyrovae.weights.run import run
from pyrovae.weights.sites import one_line
from pyrovae.weights.target import programs

__all__ = ["NonFiniteLoss", "describe", "failed", "kept", "locate", "not_finite"]


class NonFiniteLoss(ArithmeticError):
    """Raised if the loss is NaN or infinite; the parameters are restored to a good state."""


def failed(training: Training, batch: Batch, error: Exception) -> Exception:
    """Return a one-line error for the step; the original error is its cause."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(one_line(error))
    where = f"at step {training.step + 1} (epoch {len(training.history.epochs) + 1}), "
    return ValueError(sentence(batch, error, where))


def describe(training: Training, met: str, cause: str) -> str:
    """Return a message about the present step, with its number and epoch."""
    return f"{met} at step {training.step + 1} (epoch {len(training.history.epochs) + 1}): {cause}"


def kept(training: Training) -> str:
    """Return a message about the parameters that a failed training leaves."""
    epoch = training.epoch
    good = f"the end of epoch {epoch}" if epoch else "their values before the first step"
    return (
        f"The parameters are restored to the last good checkpoint, {good}. Try a smaller learning "
        "rate, or clip the gradient by Step(clip_norm=...)"
    )


def locate(training: Training, batch: Batch) -> str:
    """Return a message about the sites whose log-probabilities are not finite on a batch."""
    broken = not_finite(training.parameters)
    if broken:
        return broken
    model, guide = programs(training.target)
    with torch.no_grad():
        terms = run(model, guide, *batch, particles=1)
    sites = {**terms.guide, **terms.prior, **terms.likelihood}
    bad = [name for name, term in sites.items() if not torch.isfinite(term).all()]
    if bad:
        return f"the log-probability of site {' and '.join(map(repr, bad))} is not finite"
    return "the log-probabilities are finite at another draw: the noise of this step is the cause"


def not_finite(parameters: dict[str, Tensor]) -> str:
    """Return a message about parameters that are NaN or infinite; "" if there are none."""
    names = [name for name, tensor in parameters.items() if not torch.isfinite(tensor).all()]
    if not names:
        return ""
    return f"the step before left {len(names)} parameters not finite, the first {names[0]!r}"
