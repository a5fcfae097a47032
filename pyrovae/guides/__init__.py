"""Guides: Pyro programs that sample every latent site from an amortised posterior q(z | x).

A guide is called as `guide(x, *context)` inside the plate over data. The classes here sample one
site "z" from a normal whose parameters a network reads off x; a guide for a prior with other
sites is a function or module of your own.
"""

from pyrovae.guides.base import Guide
from pyrovae.guides.normal import FullRankNormal, MeanFieldNormal

__all__ = ["FullRankNormal", "Guide", "MeanFieldNormal"]
