"""Distributions that torch and Pyro lack, with exact densities."""

from pyrovae.distributions.columns import JointColumns
from pyrovae.distributions.concrete import LogConcrete
from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyrovae.distributions.counts import LogPoisson, OverdispersedPoisson, TotalsMultinomial
from pyrovae.distributions.discretized import DiscretizedLogistic, Levels
from pyrovae.distributions.linear_states import LinearStates, LinearStep
from pyrovae.distributions.markov import EachStep, MarkovChain
from pyrovae.distributions.mixtures import NormalMixture
from pyrovae.distributions.ode_flows import ODEFlow, VelocityField
from pyrovae.distributions.present import Present
from pyrovae.distributions.spheres import PowerSpherical, SphericalUniform

__all__ = [
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "EachStep",
    "JointColumns",
    "Levels",
    "LinearStates",
    "LinearStep",
    "LogConcrete",
    "LogPoisson",
    "MarkovChain",
    "NormalMixture",
    "ODEFlow",
    "OverdispersedPoisson",
    "PowerSpherical",
    "Present",
    "SphericalUniform",
    "TotalsMultinomial",
    "VelocityField",
]
