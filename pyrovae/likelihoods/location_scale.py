"""Likelihoods of real data from location-scale families."""

from __future__ import annotations

import abc
import math
from typing import Literal, Self, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.likelihoods.base import NetworkLikelihood, blocks
from pyrovae.nets import SMALLEST_SCALE, positive, unconstrained

__all__ = ["Laplace", "Normal", "StudentT"]


class _LocationScale(NetworkLikelihood):
    """A location from the network, and a scale that is fixed, learned or from the network."""

    domain = constraints.real

    def __init__(
        self, net: nn.Module, *, scale: float | Literal["learned", "network"] = "learned"
    ) -> None:
        super().__init__(net)
        if isinstance(scale, str) and scale not in ("learned", "network"):
            raise ValueError(
                f"scale must be a positive number, 'learned' or 'network'; got '{scale}'"
            )
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise ValueError(f"a fixed scale must be positive and finite; got {scale}")
        self.scale = scale
        if scale == "learned":
            self.raw_scale = nn.Parameter(unconstrained(torch.tensor(1.0)))
        elif not isinstance(scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))

    @property
    def outputs(self) -> int:
        """2 with scales from the network, else 1."""
        return 2 if self.scale == "network" else 1

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the mean, followed by zeros for the scales if the network outputs them."""
        mean = x.mean(0)
        return torch.cat([mean, torch.zeros_like(mean)]) if self.scale == "network" else mean

    def location_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the location and the scale; split the output if the network gives both."""
        if self.scale == "network":
            loc, raw = blocks(parameters, 2, self).unbind(-2)
            return loc, positive(raw)
        if self.scale == "learned":
            return parameters, positive(self.raw_scale)
        return parameters, self.get_buffer("fixed_scale")


class _ClosedFormScale(_LocationScale):
    """A family whose maximum-likelihood scale is a closed-form function of the residuals."""

    @abc.abstractmethod
    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the maximum-likelihood scale given the residuals x - m."""

    @final
    @torch.no_grad()
    def fit_scale(self, z: Tensor, x: Tensor, *context: Tensor) -> Self:
        r"""Set the learned scale to its closed-form optimum.

        Given samples z ~ q(z | x), it maximizes the ELBO: the root mean square of x - m(z) for a
        `Normal`, the mean of |x - m(z)| for a `Laplace`, over particles, data and dimensions. SVI
        converges to the same scale by gradients; call this method between steps or after
        training.

        The scale stays a parameter of p(x | z). A scale computed from the batch that is scored
        would make p(x | z) depend on x, which is not a density, and the ELBO not a bound.

        Args:
            z: values of the prior sampled from the posterior, [N, L] or [K, N, L].
            x: data [N, D].
            *context: passed to the network.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: if the scale is not learned, m(z) and x differ in width, or the optimum is
                below the smallest scale (see `nets.positive`) or not finite.

        References:
            Rybkin, Daniilidis, Levine, 2021. Simple and Effective VAE Training with Calibrated
            Decoders (sigma-VAE).

        Example:
            >>> import torch, pyrovae as pv
            >>> vae = pv.mlp_vae(64, latents=2, hidden=16, likelihood=pv.likelihoods.Normal)
            >>> x = 0.1 * torch.randn(500, 64)
            >>> likelihood = vae.likelihood.fit_scale(vae.encode(x).sample((10,)), x)
            >>> 0.1 < vae.decode(torch.zeros(1, 2)).stddev.mean() < 0.5
            tensor(True)
        """
        name = type(self).__name__
        if self.scale != "learned":
            raise ValueError(
                f"{name} has scale={self.scale!r}: construct it with scale='learned' to fit it"
            )
        loc = self.net(z, *context)
        if loc.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"{name} has locations of shape {tuple(loc.shape)} for data of shape "
                f"{tuple(x.shape)}: their widths must agree, so change the data or the network"
            )
        scale = self.best_scale(x - loc)
        if not SMALLEST_SCALE < scale < math.inf:
            raise ValueError(
                f"{name} needs a finite scale above {SMALLEST_SCALE}; the optimum is "
                f"{float(scale):g}: use a fixed scale instead, such as scale=0.01"
            )
        self.raw_scale.copy_(unconstrained(scale))
        return self


class Normal(_ClosedFormScale):
    r"""Real data, $p(x | z) = N(x; m(z), s^2 I)$.

    Args:
        net: maps z to means, or to means and then unconstrained scales with `scale="network"`.
        scale: a positive number, fixed; "learned", one parameter for all entries of x, initially
            1; or "network", a function of z for each x_i. The method `fit_scale(z, x, *context)`
            sets a learned one to its optimum, the root mean square of x - m(z).

    Raises:
        ValueError: if `scale` is none of these.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Normal
        >>> likelihood = Normal(MLP(20, 400, 2 * 64), scale="network")
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with the network's means."""
        return dist.Normal(*self.location_and_scale(parameters))

    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the root mean square."""
        return residuals.square().mean().sqrt()


class Laplace(_ClosedFormScale):
    r"""Real data with heavier tails, $p(x | z) = \prod_i \exp(-|x_i - m_i(z)| / s) / 2s$.

    Args:
        net: maps z to medians, or to medians and then unconstrained scales with
            `scale="network"`.
        scale: as in `Normal`.

    Raises:
        ValueError: as `Normal`.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Laplace
        >>> likelihood = Laplace(MLP(20, 400, 64), scale=0.1)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Laplace distribution with the network's medians."""
        return dist.Laplace(*self.location_and_scale(parameters))

    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the mean absolute residual."""
        return residuals.abs().mean()


class StudentT(_LocationScale):
    r"""Real data with outliers, $p(x | z) = \prod_i t_\nu((x_i - m_i(z)) / s) / s$.

    Far from m the log-density falls as $-(\nu + 1) \log |x_i - m_i|$, not quadratically, so that
    the gradient of an outlier decreases with its distance.

    Args:
        net: maps z to locations, or to locations and then unconstrained scales with
            `scale="network"`.
        df: the degrees of freedom nu, above 1 (so that p(x | z) has a mean) and finite.
        scale: as in `Normal`. It is the scale s, not the standard deviation.

    Raises:
        ValueError: if `df` is not above 1 and finite, or as `Normal`.

    References:
        Lange, Little, Taylor, 1989. Robust Statistical Modeling Using the t Distribution.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import StudentT
        >>> likelihood = StudentT(MLP(20, 400, 64), df=3)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        df: float = 4.0,
        scale: float | Literal["learned", "network"] = "learned",
    ) -> None:
        super().__init__(net, scale=scale)
        if not 1 < df < math.inf:
            raise ValueError(f"StudentT needs finite degrees of freedom above 1; got df={df}")
        self.df = float(df)

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return Student's t distribution with the network's locations."""
        return dist.StudentT(self.df, *self.location_and_scale(parameters))
