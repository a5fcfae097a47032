"""Complete VAEs with common choices of prior, likelihood, guide and networks."""

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
    """Return a VAE of perceptrons, with a standard normal prior and a mean-field normal guide.

    Args:
        features: the number of dimensions D of x, [N, D].
        latents: the number of latent dimensions.
        hidden: the widths of the guide's hidden layers, from x to z. The likelihood's network has
            the same widths in reverse order.
        likelihood: a class of `pyrovae.likelihoods`, or a function of a network with D outputs.

    Raises:
        ValueError: if a width is less than 1.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.

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
