"""Train a model and a guide: `fit`, the compiled `SVI`, callbacks and schedules."""

from pyrovae.train import learning_rates, schedules

__all__ = ["learning_rates", "schedules"]
