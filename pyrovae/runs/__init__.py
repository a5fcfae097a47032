"""Save a VAE in a folder, and load it back: configuration, parameters, metrics, evaluation."""

from pyrovae.runs.run import Run, load, save

__all__ = ["Run", "load", "save"]
