"""Measure a trained pair of Pyro programs.

`evaluate` estimates bounds on log p(x) from one set of log-weights and returns a `Report`. Further
diagnostics are objects passed to it; each returns a table and a one-paragraph verdict.
"""

from pyrovae.measure import discrepancies, disentanglement, forecast, novelty

__all__ = ["discrepancies", "disentanglement", "forecast", "novelty"]
