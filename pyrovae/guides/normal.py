"""Normal posteriors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import vec_to_tril_matrix

from pyrovae.guides.base import Guide
from pyrovae.nets import positive


class MeanFieldNormal(Guide):
    r"""The factorised posterior $q(z | x) = N(m(x), \mathrm{diag}\, s(x)^2)$.

    Args:
        net: maps x to 2 D numbers: D means, then D unconstrained scales (see `nets.positive`).

    Raises:
        ValueError: if the network's output is odd in width.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> guide = MeanFieldNormal(MLP(784, 400, 2 * 20))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return the diagonal normal of means and scales [..., 2 D]."""
        if parameters.shape[-1] % 2:
            raise ValueError(
                "MeanFieldNormal expected a network with an even number of outputs, 2 D for D "
                f"latent dimensions; got {parameters.shape[-1]}"
            )
        loc, scale = parameters.chunk(2, dim=-1)
        return dist.Normal(loc, positive(scale)).to_event(1)


class FullRankNormal(Guide):
    r"""The posterior with full covariance, $q(z | x) = N(m(x), L(x) L(x)^\top)$.

    Args:
        net: maps x to D + D (D + 1) / 2 numbers: the mean, then the lower triangle of the
            Cholesky factor L row by row, its diagonal unconstrained (see `nets.positive`).

    Raises:
        ValueError: if the network's output is not D + D (D + 1) / 2 wide for any D.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> guide = FullRankNormal(MLP(784, 400, FullRankNormal.width(20)))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    @staticmethod
    def width(latents: int) -> int:
        """Return the number of the network's outputs for D latent dimensions."""
        return latents + latents * (latents + 1) // 2

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal of means and Cholesky factors [..., D + D (D + 1) / 2]."""
        width = parameters.shape[-1]
        latents = next(d for d in range(width + 1) if self.width(d) >= width)
        if latents == 0 or self.width(latents) != width:
            raise ValueError(
                f"FullRankNormal expected a network with D + D (D + 1) / 2 outputs; got {width}. "
                f"Use FullRankNormal.width(D), such as {self.width(latents)} for D = {latents}"
            )
        loc, triangle = parameters.split([latents, width - latents], dim=-1)
        row, column = torch.tril_indices(latents, latents, device=parameters.device)
        values = torch.where(row == column, positive(triangle), triangle)
        return dist.MultivariateNormal(loc, scale_tril=vec_to_tril_matrix(values))
