"""Run two programs on K particles to compute log-weights [K, N], and reduce these to bounds."""

from pyrovae.weights import bounds, kl, psis

__all__ = ["bounds", "kl", "psis"]
