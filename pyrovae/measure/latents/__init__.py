"""Diagnostics of the latent space: active units, mutual information, holes and traversals."""

__all__: list[str] = []
