"""Likelihoods: Pyro programs that score x at the site "x" given the value of the prior.

A likelihood is called as `likelihood(z, x, *context)` inside the plate over data; with x None, it
samples x. Most classes here are distributions whose parameters are the output of a network
(`NetworkLikelihood`); all axes beyond the leading axes of z are event axes.

A likelihood declares its `domain`, a `torch.distributions.constraints` object. `fit` and
`evaluate` check the data against it before the first step.
"""

from pyrovae.likelihoods.autoregressive import AutoregressiveBernoulli
from pyrovae.likelihoods.base import Likelihood, NetworkLikelihood
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.likelihoods.counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyrovae.likelihoods.labels import Label
from pyrovae.likelihoods.linear_states import LinearStates
from pyrovae.likelihoods.location_scale import Laplace, Normal, StudentT
from pyrovae.likelihoods.masks import Masked, fill_missing
from pyrovae.likelihoods.modalities import EachModality
from pyrovae.likelihoods.pixels import Categorical, DiscretizedLogisticMixture
from pyrovae.likelihoods.sequences import Autoregressive
from pyrovae.likelihoods.steps import EachStep
from pyrovae.likelihoods.tables import Columns
from pyrovae.likelihoods.unit_interval import Beta, ContinuousBernoulli

__all__ = [
    "Autoregressive",
    "AutoregressiveBernoulli",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Columns",
    "Label",
    "ContinuousBernoulli",
    "DiscretizedLogisticMixture",
    "EachModality",
    "EachStep",
    "Laplace",
    "Likelihood",
    "LinearStates",
    "Masked",
    "Multinomial",
    "NegativeBinomial",
    "NetworkLikelihood",
    "Normal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "fill_missing",
]
