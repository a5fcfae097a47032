"""Normal posteriors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import vec_to_tril_matrix

from pyrovae.guides.base import Guide
from pyrovae.nets import positive
from pyrovae.nets.heads import diagonal_normal

__all__ = ["FullRankNormal", "LowRankNormal", "MeanFieldNormal"]


class MeanFieldNormal(Guide):
    r"""The mean-field normal posterior $q(z | x) = N(m(x), \mathrm{diag}\, s(x)^2)$.

    Args:
        net: maps x to 2 D numbers: D means, then D unconstrained scales (see `nets.positive`).

    Raises:
        ValueError: if the width of the network's output is odd.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import MeanFieldNormal
        >>> guide = MeanFieldNormal(MLP(784, 400, 2 * 20))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the diagonal normal with means and scales [..., 2 D]."""
        return diagonal_normal(parameters, self)


class FullRankNormal(Guide):
    r"""The normal posterior with full covariance, $q(z | x) = N(m(x), L(x) L(x)^\top)$.

    Args:
        net: maps x to D + D (D + 1) / 2 numbers: the mean, then the lower triangle of the
            Cholesky factor L row by row, with an unconstrained diagonal (see `nets.positive`).

    Raises:
        ValueError: if the network's output is not D + D (D + 1) / 2 wide for any D.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import FullRankNormal
        >>> guide = FullRankNormal(MLP(784, 400, FullRankNormal.width(20)))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    @staticmethod
    def width(latents: int) -> int:
        """Return the width of the network's output for D latent dimensions."""
        return latents + latents * (latents + 1) // 2

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with mean and Cholesky factor [..., D + D (D + 1) / 2]."""
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


class LowRankNormal(Guide):
    r"""The normal posterior $q(z | x) = N(m, S (I + V V^\top) S)$ with S diagonal, V of rank R.

    m, S and V depend on x. The correlations take R D parameters, where a full covariance takes
    D (D + 1) / 2. V is in units of the scales S, which keeps the density accurate for small
    scales.

    Args:
        net: maps x to D means, D unconstrained scales (see `nets.positive`), then the factor V
            [D, R] row by row.
        rank: the rank R of V.

    Raises:
        ValueError: if the rank is below 1, or the network's output is not D (2 + R) wide.

    References:
        Rezende, Mohamed, Wierstra, 2014. Stochastic Backpropagation.
        Ong, Nott, Smith, 2018. Gaussian Variational Approximation with a Factor Covariance.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import LowRankNormal
        >>> guide = LowRankNormal(MLP(784, 400, LowRankNormal.width(20, 3)), rank=3)
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 784)).shape
        torch.Size([3, 20])
    """

    def __init__(self, net: nn.Module, rank: int) -> None:
        super().__init__(net)
        if rank < 1:
            raise ValueError(
                f"LowRankNormal needs a rank of 1 or more; got {rank}. Rank 0 is MeanFieldNormal"
            )
        self.rank = rank

    @staticmethod
    def width(latents: int, rank: int) -> int:
        """Return the width of the network's output for D latent dimensions."""
        return latents * (2 + rank)

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with mean, scales and factor [..., D (2 + R)]."""
        width = parameters.shape[-1]
        latents = width // (2 + self.rank)
        if latents == 0 or self.width(latents, self.rank) != width:
            raise ValueError(
                f"LowRankNormal of rank {self.rank} expected a network with D (2 + "
                f"{self.rank}) outputs; got {width}. Use LowRankNormal.width(D, {self.rank})"
            )
        loc, raw, factor = parameters.split([latents, latents, latents * self.rank], dim=-1)
        scale = positive(raw)
        factor = scale.unsqueeze(-1) * factor.unflatten(-1, (latents, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, scale.square())
