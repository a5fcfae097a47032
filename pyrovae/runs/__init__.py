"""A run's folder: what a training leaves behind, held against a schema before it is used."""

from pyrovae.runs.run import Run, load, save

__all__ = ["Run", "load", "save"]
