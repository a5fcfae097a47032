"""Likelihoods: Pyro programs that score x at the site "x" given what the prior returned.

A likelihood is called as `likelihood(z, x, *context)` inside the plate over data, with x None
when x is to be drawn. The classes here ask a network for the parameters; the trailing axes that
x has beyond the latents' leading ones become the event.

A likelihood declares its `domain`, a `torch.distributions.constraints` object that `fit` and
`evaluate` hold the data against before the first step.
"""

from pyrovae.likelihoods.base import Likelihood, NetworkLikelihood
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.likelihoods.location_scale import Laplace, Normal

__all__ = ["Bernoulli", "Laplace", "Likelihood", "NetworkLikelihood", "Normal"]
