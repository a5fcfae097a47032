"""A posterior that is a point."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.guides.base import Guide

__all__ = ["Delta"]


class Delta(Guide):
    r"""The point mass at the network's output, $q(z | x) = \delta(z - f(x))$.

    A point has no entropy, so the objective is $\log p(x, f(x))$, not a bound on $\log p(x)$: a
    VAE with this guide is an auto-encoder whose code is penalized by the prior. With
    `pv.Step(kl_weight=0.0)` nothing is penalized. Reports say that the guide is a point mass.

    Args:
        net: maps x to the D entries of z.

    References:
        Hinton, Salakhutdinov, 2006. Reducing the Dimensionality of Data with Neural Networks.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.Delta(pv.nets.MLP(64, 16, 2)),
        ... )
        >>> x = torch.zeros(5, 64)
        >>> step = pv.Step(kl_weight=0.0)  # a deterministic auto-encoder
        >>> history = pv.fit(vae, x, epochs=1, step=step, callbacks=[])
        >>> bool((vae.encode(x).mean == vae.posterior.net(x)).all())
        True
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the point mass at [..., D]."""
        return dist.Delta(parameters, event_dim=1)
