r"""State-space priors: a Markov chain of latents, $p(z_{1:T}) = \prod_t p(z_t | z_{t-1}, c_t)$."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.markov import MarkovChain
from pyrovae.nets.sequences import step_inputs, steps_normal
from pyrovae.priors.base import Prior, check_latents

__all__ = ["Markov"]


class Markov(Prior):
    r"""A chain of latents with normal transitions, one for each step of a sequence.

    $$ p(z_{1:T}) = \prod_t N(z_t; m(z_{t-1}, c_t), \mathrm{diag}\, s(z_{t-1}, c_t)^2) $$

    The site "z" has the event shape [T, D]. The last context is the mask of the steps, booleans
    [N, T]: steps of padding have log-density 0. Before it stand covariates c, of each step
    [N, T, C] or of the whole sequence [N, C], if there are any.

    Args:
        net: maps z [..., D], and c [..., C] if there are covariates, to 2 D numbers: D means,
            then D unconstrained scales (see `nets.positive`).
        latents: D.

    Attributes:
        first: z_0, a parameter that starts at zero.

    Raises:
        ValueError: if there is no latent dimension, the context is not covariates and a mask of
            the steps, or the network does not return 2 D numbers.

    References:
        Krishnan, Shalit, Sontag, 2017. Structured Inference Networks for Nonlinear State Space
            Models.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> prior = pv.priors.Markov(pv.nets.MLP(3, 16, 2 * 3), 3)
        >>> with pyro.plate("data", 5):
        ...     prior(torch.ones(5, 7, dtype=torch.bool)).shape
        torch.Size([5, 7, 3])
    """

    def __init__(self, net: nn.Module, latents: int) -> None:
        super().__init__()
        check_latents(self, latents)
        self.net, self.first = net, nn.Parameter(torch.zeros(latents))

    def transition(self, before: Tensor, inputs: Tensor | None = None) -> dist.Distribution:
        """Return p(z_t | z_{t-1}, c_t) for z_{t-1} [..., D] and c_t [..., C]."""
        given = (before,) if inputs is None else (before, inputs)
        return steps_normal(self.net(*given), before, self)

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return p(z_{1:T}), with the steps of the mask."""
        mask, covariates = step_inputs(context, "Markov")
        return MarkovChain(self.transition, self.first, mask, covariates)
