"""Train a model and a guide: `fit`, the compiled `SVI`, callbacks and schedules."""

from pyrovae.train import schedules

__all__ = ["schedules"]
