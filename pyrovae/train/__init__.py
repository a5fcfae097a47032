"""Train a model and a guide: `SVI` step by step, `fit` to the end, callbacks, schedules."""

from pyrovae.train import schedules

__all__ = ["schedules"]
