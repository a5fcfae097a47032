"""Priors: Pyro programs that sample the latent sites and return what the likelihood takes.

A prior is called as `prior(*context)` inside the plate over data. A plain function is as good as
a class; the classes here hold buffers, so that `.to(device)` moves them.
"""

from pyrovae.priors.base import Prior
from pyrovae.priors.discrete import Bernoulli, Categorical, OneHot, RelaxedOneHot
from pyrovae.priors.flow import Flow
from pyrovae.priors.hierarchical import ConditionalNormal, Hierarchical
from pyrovae.priors.joint import Joint
from pyrovae.priors.mixtures import MixtureOfNormals
from pyrovae.priors.normal import Normal
from pyrovae.priors.sphere import UniformSphere
from pyrovae.priors.standard import Laplace, StandardNormal, StudentT
from pyrovae.priors.vamp import VampPrior

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalNormal",
    "Flow",
    "Hierarchical",
    "Joint",
    "Laplace",
    "MixtureOfNormals",
    "Normal",
    "OneHot",
    "Prior",
    "RelaxedOneHot",
    "StandardNormal",
    "StudentT",
    "UniformSphere",
    "VampPrior",
]
