"""Diagnostics of the latent space: active units, mutual information, holes and traversals."""

from pyrovae.measure.latents import paths

__all__ = ["paths"]
