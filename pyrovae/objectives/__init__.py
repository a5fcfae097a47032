r"""Training objectives: whatever `bounds` can measure, SVI can train.

Each is a `pyro.infer.ELBO` made from one bound on log-weights [K, N]: the bound of each datum is
taken over its own K weights, then multiplied by the scale of the plate (outside the logarithm)
and summed over data. They go into Pyro's `SVI`, into `pyrovae.SVI`, into `fit` as
`Step(loss=IWAE(50, gradient="dreg"))`, and are modules: `IWAE(50)(model, guide)`.

The value of the loss is the bound, whatever stands in for its gradient. How the gradient reaches
the guide is an argument (see `estimators`):

- "plain": through draws and densities; the score function, with the other particles as baseline,
  at sites without a reparameterized sample;
- "stl": through the draws alone. Unbiased for the ELBO; biased for a bound of several particles;
- "dreg": doubly reparameterized: unbiased for every bound here, and without noise at the exact
  posterior; far from it the plain gradient may vary less.

Every site lies in the plate over data, as for `log_weights`. A latent that is summed out belongs
to the model alone: the bound does not contain its posterior, so a guide that has one is refused.
"""

from pyrovae.objectives import aggregate, handlers, regularized
from pyrovae.objectives.apart import CUBO, PIWAE, ReweightedWakeSleep
from pyrovae.objectives.base import LowerBound, Objective
from pyrovae.objectives.lower_bounds import CIWAE, IWAE, MIWAE, Renyi

__all__ = [
    "CIWAE",
    "CUBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "LowerBound",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "aggregate",
    "handlers",
    "regularized",
]
