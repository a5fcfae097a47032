r"""Structured posteriors of sequences: $q(z_{1:T} | x) = \prod_t q(z_t | z_{t-1}, x_{t:T})$.

A recurrent network reads the sequence from its end; each step combines what it has read with the
latent before. The exact posterior of a state-space model has this form.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.markov import MarkovChain
from pyrovae.nets.sequences import step_inputs, steps_normal
from pyrovae.parts import Part

__all__ = ["Combiner"]


class Combiner(Part):
    r"""Sample the site "z" of a sequence, each step given the one before and what follows.

    $$ q(z_{1:T} | x) = \prod_t N(z_t; m(z_{t-1}, h_t), \mathrm{diag}\, s(z_{t-1}, h_t)^2) $$

    The last context is the mask of the steps, booleans [N, T]. Covariates before it, [N, T, C] or
    [N, C], are for the reader: the exact posterior of a step depends on those ahead, too.

    Args:
        reader: maps x [N, T, ...] and the context to h [N, T, H], such as `nets.BackwardGRU`,
            which reads $x_{t:T}$ and covariates $c_{t:T}$ into h_t.
        net: maps (z [..., D], h [..., H]), concatenated, to 2 D numbers: D means, then D
            unconstrained scales (see `nets.positive`).
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
        >>> reader, net = pv.nets.BackwardGRU(88, 32), pv.nets.MLP(3 + 32, 16, 2 * 3)
        >>> guide = pv.guides.Combiner(reader, net, 3)
        >>> with pyro.plate("data", 5):
        ...     guide(torch.zeros(5, 7, 88), torch.ones(5, 7, dtype=torch.bool)).shape
        torch.Size([5, 7, 3])
    """

    def __init__(self, reader: nn.Module, net: nn.Module, latents: int) -> None:
        super().__init__()
        if latents < 1:
            raise ValueError(f"Combiner expected at least one latent dimension; got {latents}")
        # Not `net`: that of other guides maps x to all the parameters of q.
        self.reader, self.combine = reader, net
        self.first = nn.Parameter(torch.zeros(latents))

    def transition(self, before: Tensor, inputs: Tensor | None) -> dist.Distribution:
        """Return q(z_t | z_{t-1}, h_t) for z_{t-1} [..., D] and h_t [..., H]."""
        return steps_normal(self.combine(before, inputs), before, self)

    def distribution(self, x: Tensor, *context: Tensor) -> MarkovChain:
        """Return q(z_{1:T} | x)."""
        mask, _ = step_inputs(context, "Combiner")
        return MarkovChain(self.transition, self.first, mask, self.reader(x, *context))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x), [..., T, D]."""
        z: Tensor = pyro.sample("z", self.distribution(x, *context))
        return z
