"""Fixed priors with location 0 and scale 1 in each dimension, and different tails."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.priors.base import Prior, check_latents

__all__ = ["Laplace", "StandardNormal", "StudentT"]


class _Standard(Prior):
    """Hold a location of zeros and a scale of ones as buffers."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        check_latents(self, latents)
        self.register_buffer("loc", torch.zeros(latents))
        self.register_buffer("scale", torch.ones(latents))


class StandardNormal(_Standard):
    r"""Sample a site "z" from the standard normal, $p(z) = N(0, I_D)$.

    Args:
        latents: the dimension D of z.

    Raises:
        ValueError: if `latents` is below 1.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import StandardNormal
        >>> with pyro.plate("data", 3):
        ...     StandardNormal(2)().shape
        torch.Size([3, 2])
    """

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the standard normal; the context is ignored."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(_Standard):
    r"""Sample a site "z" from Laplace distributions, $p(z) = \prod_d \tfrac12 e^{-|z_d|}$.

    Unlike the standard normal, this density is not rotationally symmetric: its peaks pull
    posterior means toward the axes, which favors latents that are interpretable one by one.

    Args:
        latents: the dimension D of z.

    Raises:
        ValueError: if `latents` is below 1.

    Example:
        >>> import torch
        >>> from pyrovae.priors import Laplace
        >>> Laplace(2).distribution().log_prob(torch.tensor([[0.0, 0.0], [1.0, -3.0]]))
        tensor([-1.3863, -5.3863])
    """

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the product of Laplace distributions; the context is ignored."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(_Standard):
    r"""Sample a site "z" from Student's t distributions with $\nu$ degrees of freedom.

    $$ p(z) \propto \prod_d (1 + z_d^2 / \nu)^{-(\nu + 1) / 2} $$

    The heavy tails cost a posterior far from 0 little: log p falls with log |z|, not with z^2.

    Args:
        latents: the dimension D of z.
        df: the degrees of freedom nu, positive and finite.

    Raises:
        ValueError: if `latents` is below 1, or `df` is not positive and finite.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import StudentT
        >>> with pyro.plate("data", 3):
        ...     StudentT(2, df=5)().shape
        torch.Size([3, 2])
    """

    df: Tensor

    def __init__(self, latents: int, *, df: float = 4.0) -> None:
        super().__init__(latents)
        if not 0 < df < math.inf:
            raise ValueError(
                f"StudentT needs positive and finite degrees of freedom; got df={df}. The limit "
                "of infinite df is StandardNormal"
            )
        self.register_buffer("df", torch.tensor(float(df)))

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the product of Student's t distributions; the context is ignored."""
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)
