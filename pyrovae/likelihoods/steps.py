"""Likelihoods of sequences whose steps are independent given the latents."""

from __future__ import annotations

from typing import final

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions import markov
from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets.sequences import step_inputs

__all__ = ["EachStep"]


@final
class EachStep(Likelihood):
    r"""Score each step of a sequence by the same likelihood, $\sum_t m_t \log p(x_t | z_t, c_t)$.

    The last context is the mask m of the steps, booleans [N, T]. Steps of padding hold any value
    of the domain; they are not scored. Before it stand covariates c, of each step [N, T, C] or of
    the whole sequence [N, C], if there are any: the likelihood is given them as one context.

    Args:
        likelihood: p(x_t | z_t, c_t), of z_t [..., D] and c_t [..., C].

    Raises:
        ValueError: if the context is not covariates and a mask of the steps.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> likelihood = pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(pv.nets.MLP(3, 16, 88)))
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> with pyro.plate("data", 2):
        ...     likelihood(torch.zeros(2, 2, 3), None, mask).shape
        torch.Size([2, 2, 88])
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood, self.domain = likelihood, likelihood.domain

    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z) of z [..., T, D], with the leading axes as batch shape."""
        mask, covariates = step_inputs(context, "EachStep")
        return markov.EachStep(self.likelihood.observation, z, mask, covariates)
