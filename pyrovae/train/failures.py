"""Say why a step of training failed, and where."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.data.batches import Batch
from pyrovae.train.callbacks import Training
from pyrovae.train.dry_run import sentence
from pyrovae.vae import programs
from pyrovae.weights.log_weights import run
from pyrovae.weights.sites import one_line

__all__ = ["NonFiniteLoss", "describe", "failed", "kept", "locate", "not_finite"]


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the parameters are those of the last good checkpoint."""


def failed(training: Training, batch: Batch, error: Exception) -> Exception:
    """Return the error of a step in one sentence; what Pyro and torch print is its cause."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(one_line(error))
    where = f"at step {training.step + 1} (epoch {len(training.history.epochs) + 1}), "
    return ValueError(sentence(batch, error, where))


def describe(training: Training, met: str, cause: str) -> str:
    """Say what was met at which step."""
    return f"{met} at step {training.step + 1} (epoch {len(training.history.epochs) + 1}): {cause}"


def kept(training: Training) -> str:
    """Say which parameters a training leaves."""
    epoch = training.epoch
    good = f"the end of epoch {epoch}" if epoch else "their values before the first step"
    return (
        f"The parameters are put back to the last good checkpoint, {good}. Try a smaller learning "
        "rate, or clip the gradient: pyro.optim.ClippedAdam"
    )


def locate(training: Training, batch: Batch) -> str:
    """Name the sites whose terms are not finite on a batch."""
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
    return "the log-probabilities are finite at another draw, so the noise of this step did it"


def not_finite(parameters: dict[str, Tensor]) -> str:
    """Name the parameters that are NaN or infinite; "" if none is."""
    names = [name for name, tensor in parameters.items() if not torch.isfinite(tensor).all()]
    if not names:
        return ""
    return f"the step before left {len(names)} parameters not finite, the first {names[0]!r}"
