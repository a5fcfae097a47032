"""Guides: Pyro programs that sample every latent site from an amortized posterior q(z | x).

A guide is called as `guide(x, *context)` inside the plate over data. Most classes here sample one
site "z" from a distribution whose parameters are the output of a network at x (`Guide`). `Joint`,
`Hierarchical` and `Ladder` sample several sites. A guide for any other prior may be any function
or module.
"""

from pyrovae.guides.base import Guide, Posterior
from pyrovae.guides.codes import FSQ, VectorQuantized
from pyrovae.guides.combiner import Combiner
from pyrovae.guides.delta import Delta
from pyrovae.guides.discrete import Bernoulli, Categorical, OneHot, RelaxedOneHot
from pyrovae.guides.experts import MixtureOfExperts, MixtureOfProducts, ProductOfExperts
from pyrovae.guides.flow import Flow
from pyrovae.guides.hierarchical import Hierarchical, Ladder
from pyrovae.guides.joint import Joint
from pyrovae.guides.mixtures import MixtureOfNormals
from pyrovae.guides.normal import FullRankNormal, LowRankNormal, MeanFieldNormal
from pyrovae.guides.of_context import OfContext
from pyrovae.guides.residual_ladder import ResidualLadder
from pyrovae.guides.sphere import PowerSpherical

__all__ = [
    "FSQ",
    "Bernoulli",
    "Categorical",
    "Combiner",
    "Delta",
    "Flow",
    "FullRankNormal",
    "Guide",
    "Hierarchical",
    "Joint",
    "Ladder",
    "LowRankNormal",
    "MeanFieldNormal",
    "MixtureOfExperts",
    "MixtureOfNormals",
    "MixtureOfProducts",
    "OfContext",
    "OneHot",
    "Posterior",
    "PowerSpherical",
    "ProductOfExperts",
    "RelaxedOneHot",
    "ResidualLadder",
    "VectorQuantized",
]
