"""End a training after a number of steps or a time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from pyrovae.train.callbacks import Callback, StopTraining, Training

__all__ = ["Limit"]


class Limit(Callback):
    """End a training between two steps, and keep the parameters.

    The epoch ends there: it is measured and saved as a whole one. A training that resumes counts
    its earlier steps and seconds, and goes on from that step if its limit is larger.

    Args:
        steps: the largest number of steps, 1 or more; None for any.
        seconds: the largest time, with compiling and measuring, above 0; None for any. It ends
            the training after the first step beyond it.

    Raises:
        ValueError: if neither is given, or one is not positive.

    Example:
        >>> import pyrovae as pv
        >>> digits, vae = pv.data.load("digits"), pv.mlp_vae(64, latents=2, hidden=16)
        >>> history = pv.fit(vae, digits.train, epochs=9, callbacks=[pv.Limit(steps=20)])
        >>> history.ended, len(history.epochs)
        ('stopped early: 20 steps were asked for', 2)
    """

    def __init__(self, steps: int | None = None, seconds: float | None = None) -> None:
        if steps is None and seconds is None:
            raise ValueError("a limit is a number of steps or of seconds: Limit(steps=10_000)")
        if steps is not None and steps < 1:
            raise ValueError(f"a training takes at least one step; got steps={steps}")
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"the seconds of a limit are above 0, and finite; got {seconds}")
        self.steps, self.seconds = steps, seconds
        self._before, self._since = 0.0, time.monotonic()

    def started(self, training: Training) -> None:
        """Start the clock."""
        self._before, self._since = 0.0, time.monotonic()

    def started_epoch(self, training: Training) -> None:
        """End a training that has come to a limit while it was measured, or before it resumed.

        A first step is taken in any case.
        """
        if training.step:
            self.stepped(training)

    def stepped(self, training: Training) -> None:
        """End the training at a limit."""
        if self.steps is not None and training.step >= self.steps:
            raise StopTraining(f"{self.steps:,} steps were asked for")
        if self.seconds is not None and self._elapsed() >= self.seconds:
            raise StopTraining(f"{self.seconds:g} seconds were asked for")

    def _elapsed(self) -> float:
        return self._before + time.monotonic() - self._since

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far, if they are limited."""
        return {} if self.seconds is None else {"seconds": self._elapsed()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count the seconds of an earlier part of the training."""
        self._before, self._since = state["seconds"], time.monotonic()
