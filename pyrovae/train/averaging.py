"""Average the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pyrovae.train.callbacks import Callback, Training

__all__ = ["EMA"]


class EMA(Callback):
    r"""Keep an exponential moving average of the parameters: what is measured and saved.

    After each step, $\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$, as
    `torch.optim.swa_utils.AveragedModel` does with `get_ema_multi_avg_fn(d)`; the average begins
    with the parameters after the first step. At the end of each epoch, the averaged parameters are
    those that are measured, saved and compared by `EarlyStopping`; training goes on from its own.
    At the end, the target has the averaged ones. Unconstrained values are averaged. Buffers, such
    as the statistics of batch normalization, stay those of training, as in `AveragedModel`.

    Args:
        decay: the decay d, at least 0 and below 1.

    Raises:
        ValueError: for a decay outside its range.

    References:
        Polyak, Juditsky, 1992. Acceleration of Stochastic Approximation by Averaging.

    Example:
        >>> import pyrovae as pv
        >>> digits, vae = pv.data.load("digits"), pv.mlp_vae(64, latents=2, hidden=16)
        >>> history = pv.fit(vae, digits.train, epochs=2, callbacks=[pv.EMA(0.9)])
        >>> history.averaged
        'over steps with decay 0.9'
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average is at least 0 and below 1; got {decay}")
        self.decay, self._update = decay, get_ema_multi_avg_fn(decay)
        self._begin()

    def _begin(self) -> None:
        self.averaged: dict[str, Tensor] = {}
        self.trained: dict[str, Tensor] = {}
        self.steps = 0
        self._devices: dict[str, torch.device] = {}

    def started(self, training: Training) -> None:
        """Begin a new average."""
        self._begin()
        self._devices = {name: p.device for name, p in training.parameters.items()}
        training.history.averaged = f"over steps with decay {self.decay}"

    def started_epoch(self, training: Training) -> None:
        """Go on from the parameters of training."""
        if self.trained:
            _write(training, self.trained)
            self.trained = {}

    @torch.no_grad()
    def stepped(self, training: Training) -> None:
        """Update the average."""
        present = training.values()
        if self.averaged:
            known = [present[name] for name in self.averaged]
            self._update(list(self.averaged.values()), known, self.steps)
        for name, value in present.items():
            if name not in self.averaged:  # announced by this step
                self.averaged[name] = value.detach().clone()
        self.steps += 1

    def measuring(self, training: Training) -> None:
        """Put the averaged parameters in the place of those of training."""
        self.trained = _copy(training)
        _write(training, self.averaged)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and the parameters of training while they are put aside."""
        return {
            "decay": self.decay,
            "steps": self.steps,
            "averaged": dict(self.averaged),
            "trained": dict(self.trained),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`.

        Raises:
            ValueError: if the decay was another.
        """
        if state["decay"] != self.decay:
            raise ValueError(
                f"the average was begun with decay {state['decay']}, and not {self.decay}: resume "
                "with the same"
            )
        self.steps = state["steps"]
        usual = next(iter(self._devices.values()), None)
        self.averaged, self.trained = (
            {n: tensor.to(self._devices.get(n, usual), copy=True) for n, tensor in kept.items()}
            for kept in (state["averaged"], state["trained"])
        )


def _copy(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training.values().items()}


@torch.no_grad()
def _write(training: Training, values: dict[str, Tensor]) -> None:
    for name, value in training.values().items():
        value.copy_(values[name])
