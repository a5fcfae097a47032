"""Annealed importance sampling: a lower bound on log p(x), and an upper one on simulated data."""

__all__: list[str] = []
