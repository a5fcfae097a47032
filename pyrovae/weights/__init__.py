"""Run two programs on K particles: the log-weights [K, N], and everything reduced from them."""

from pyrovae.weights import bounds, kl, psis

__all__ = ["bounds", "kl", "psis"]
