r"""Training objectives: losses for SVI from bounds on log-weights.

Each objective is a `pyro.infer.ELBO` that reduces log-weights [K, N] to a bound for each datum,
multiplies it by the scale of the plate (outside the logarithm) and sums over data. Objectives work
in Pyro's `SVI`, in `pyrovae.SVI`, in `fit` as `Step(loss=IWAE(50, gradient="dreg"))`, and as
modules, `IWAE(50)(model, guide)`. `particles` is the number K of particles, and k the group size
of a bound.

The value of the loss is always the bound. The argument `gradient` selects the gradient estimator
of the guide (see `pyrovae.objectives.gradients`):

- "plain": through samples and densities. Sites that are not reparameterized use the score
  function, with the other particles as baseline.
- "stl": through the samples only (sticking the landing). It is unbiased for the ELBO, and biased
  for bounds of several particles.
- "dreg": doubly reparameterized. It is unbiased for every bound here and has zero variance at the
  exact posterior; far from it, the plain gradient may have a lower variance.

The last two, and `ReweightedWakeSleep`, need the slope of log q(z | x) at a fixed z. A guide that
draws an auxiliary u and returns z = T(u), as Pyro's autoguides do, has it if T has no parameters,
and is refused otherwise.

Every site must lie in the plate over data, as for `log_weights`. An enumerated latent belongs to
the model only: the bound does not contain its posterior, so a guide with one is refused.
`SemiSupervised` takes such guides: it trains q of an enumerated class, of which some data have
labels.
"""

from pyrovae.objectives import aggregate, handlers, regularized
from pyrovae.objectives.base import LowerBound, Objective
from pyrovae.objectives.cubo import CUBO
from pyrovae.objectives.fivo import FIVO
from pyrovae.objectives.lower_bounds import CIWAE, IWAE, MIWAE, Renyi
from pyrovae.objectives.piwae import PIWAE
from pyrovae.objectives.regularized import DIP, MMD, FactorVAE, TotalCorrelation
from pyrovae.objectives.semi_supervised import SemiSupervised
from pyrovae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "CIWAE",
    "CUBO",
    "DIP",
    "FIVO",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "FactorVAE",
    "LowerBound",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "SemiSupervised",
    "TotalCorrelation",
    "aggregate",
    "handlers",
    "regularized",
]
