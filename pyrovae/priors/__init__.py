"""Priors: Pyro programs that sample the latent sites and return the likelihood's input.

A prior is called as `prior(*context)` inside the plate over data. It may be any function or
module. The classes here are modules that hold their parameters and buffers, so that
`.to(device)` moves them. Most sample one site "z" from a distribution (`Prior`); `Joint` and
`Hierarchical` combine several priors in one program.
"""

from pyrovae.priors.base import Prior
from pyrovae.priors.codes import AutoregressiveCodes, Codes
from pyrovae.priors.continuous_flow import ContinuousFlow
from pyrovae.priors.discrete import Bernoulli, Categorical, OneHot, RelaxedOneHot
from pyrovae.priors.flow import Flow
from pyrovae.priors.hierarchical import ConditionalNormal, Hierarchical
from pyrovae.priors.joint import Joint
from pyrovae.priors.markov import Markov
from pyrovae.priors.mixtures import MixtureOfNormals
from pyrovae.priors.normal import Normal
from pyrovae.priors.residual_ladder import ResidualLadder
from pyrovae.priors.sphere import UniformSphere
from pyrovae.priors.standard import Laplace, StandardNormal, StudentT
from pyrovae.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "Bernoulli",
    "Categorical",
    "Codes",
    "ConditionalNormal",
    "ContinuousFlow",
    "Flow",
    "Hierarchical",
    "Joint",
    "Laplace",
    "Markov",
    "MixtureOfNormals",
    "Normal",
    "OneHot",
    "Prior",
    "RelaxedOneHot",
    "ResidualLadder",
    "StandardNormal",
    "StudentT",
    "UniformSphere",
    "VampPrior",
]
