"""Take steps in which parameters are announced that the first batch did not announce.

Those of an objective, such as a discriminator, and those that a callback unfreezes, are announced
to SVI by a step. They belong to the training from then on. Where it resumes, their saved values
wait for the step that announces them, which is then taken anew with these values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyrovae.data.batches import Batch
from pyrovae.train.callbacks import Training
from pyrovae.train.resume import generators, restore_generators
from pyrovae.train.svi import SVI

__all__ = ["gradients"]


def gradients(training: Training, svi: SVI, batch: Batch) -> tuple[Any, list[Tensor]]:
    """Return the loss of a batch, and the parameters with their gradients."""
    if not training.waiting:
        taken = svi.gradients(*batch)
        training.meet(svi.names)
        return taken
    before, drawn = training.snapshot(), generators()
    present = {p: p.grad for p in training.parameters.values() if p.grad is not None}
    grads = {parameter: grad.clone() for parameter, grad in present.items()}
    taken = svi.gradients(*batch)
    if not training.meet(svi.names):
        return taken
    training.restore(before)
    restore_generators(drawn)
    for parameter, grad in grads.items():
        parameter.grad = grad
    return svi.gradients(*batch)
