"""Annealed importance sampling: log p(x) from below, and on simulated data from above."""

__all__: list[str] = []
