"""Priors: Pyro programs that sample the latent sites and return what the likelihood takes.

A prior is called as `prior(*context)` inside the plate over data. A plain function is as good as
a class; the classes here hold buffers, so that `.to(device)` moves them.
"""

from pyrovae.priors.normal import StandardNormal

__all__ = ["StandardNormal"]
