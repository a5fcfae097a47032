"""Measure a trained pair of programs: `evaluate`, and every diagnostic that a report can hold."""

from pyrovae.measure import discrepancies

__all__ = ["discrepancies"]
