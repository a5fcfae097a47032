"""Whole VAEs in one line, to begin with or to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pyrovae.guides.normal import MeanFieldNormal
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.nets.perceptrons import MLP
from pyrovae.priors.standard import StandardNormal
from pyrovae.vae import VAE

__all__ = ["mlp_vae"]


def mlp_vae(
    features: int,
    latents: int,
    *,
    hidden: int | Sequence[int] = 200,
    likelihood: Callable[[nn.Module], Any] = Bernoulli,
) -> VAE:
    """Return a VAE of perceptrons: standard normal prior, mean-field normal guide.

    Args:
        features: D, where x is [N, D].
        latents: the number of latent dimensions.
        hidden: the width of the hidden layer, or of several, from x to z; the likelihood's
            network has the same in reverse.
        likelihood: called with a network from z to D numbers for each datum, as a class of
            `pyrovae.likelihoods` is.

    Raises:
        ValueError: for a width below 1, and as the likelihood.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> vae.sample(5).shape
        torch.Size([5, 64])
        >>> vae = pv.mlp_vae(64, 2, hidden=(32, 16), likelihood=pv.likelihoods.Normal)
        >>> vae.likelihood.net.sizes
        (2, 16, 32, 64)
    """
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    return VAE(
        prior=StandardNormal(latents),
        likelihood=likelihood(MLP(latents, *reversed(widths), features)),
        guide=MeanFieldNormal(MLP(features, *widths, 2 * latents)),
    )
