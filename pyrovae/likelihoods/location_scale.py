"""Likelihoods of real data: a location, and a scale around it."""

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
    """A location from the network, and a scale: fixed, learned, or from the network too."""

    domain = constraints.real

    def __init__(
        self, net: nn.Module, *, scale: float | Literal["learned", "network"] = "learned"
    ) -> None:
        super().__init__(net)
        if isinstance(scale, str) and scale not in ("learned", "network"):
            raise ValueError(f"scale is a positive number, 'learned' or 'network'; got '{scale}'")
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise ValueError(f"a fixed scale is positive and finite; got {scale}")
        self.scale = scale
        if scale == "learned":
            self.raw_scale = nn.Parameter(unconstrained(torch.tensor(1.0)))
        elif not isinstance(scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the mean, and zeros for the scales where the network gives them."""
        mean = x.mean(0)
        return torch.cat([mean, torch.zeros_like(mean)]) if self.scale == "network" else mean

    def location_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Split the network's output where it gives both, else add the one scale."""
        if self.scale == "network":
            loc, raw = blocks(parameters, 2, self).unbind(-2)
            return loc, positive(raw)
        if self.scale == "learned":
            return parameters, positive(self.raw_scale)
        return parameters, self.get_buffer("fixed_scale")


class _ClosedFormScale(_LocationScale):
    """A family whose best scale is a function of the distances between data and locations."""

    @abc.abstractmethod
    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the scale of greatest likelihood given x - m."""

    @final
    @torch.no_grad()
    def fit_scale(self, z: Tensor, x: Tensor, *context: Tensor) -> Self:
        r"""Set the learned scale to the optimum that it has in closed form.

        Given draws z ~ q(z | x) no other scale has a higher ELBO: the root of the mean of
        $(x - m(z))^2$ for a `Normal`, the mean of $|x - m(z)|$ for a `Laplace`, over particles,
        data and dimensions. Gradients lead to the same place; this is the step all at once,
        between steps of SVI or at the end.

        The scale stays a parameter of p(x | z). Computed from the batch that is scored, it would
        make p(x | z) depend on x, which is no density, and no bound could be measured with it.

        Args:
            z: what the prior returns, drawn from the posterior: [N, L], or [K, N, L].
            x: data [N, D].
            *context: as the network takes it.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: if the scale is not learned, if m(z) and x differ in width, or if x is met
                so closely that the scale would be below the smallest (see `nets.positive`).

        References:
            Rybkin, Daniilidis, Levine, 2021. Simple and Effective VAE Training with Calibrated
            Decoders (sigma-VAE).

        Example:
            >>> import pyrovae as pv
            >>> vae = pv.VAE(
            ...     prior=pv.priors.StandardNormal(2),
            ...     likelihood=pv.likelihoods.Normal(pv.nets.MLP(2, 16, 64)),
            ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
            ... )
            >>> x = 0.1 * torch.randn(500, 64)
            >>> likelihood = vae.likelihood.fit_scale(vae.encode(x).sample((10,)), x)
            >>> 0.1 < vae.decode(torch.zeros(1, 2)).stddev.mean() < 0.5
            tensor(True)
        """
        name = type(self).__name__
        if self.scale != "learned":
            raise ValueError(
                f"{name} has scale={self.scale!r}: make it with scale='learned' to fit the scale"
            )
        loc = self.net(z, *context)
        if loc.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"{name} has locations of shape {tuple(loc.shape)} for data of shape "
                f"{tuple(x.shape)}: they have one width, so reshape the data or the network"
            )
        scale = self.best_scale(x - loc)
        if not SMALLEST_SCALE < scale < math.inf:
            raise ValueError(
                f"{name} takes scales above {SMALLEST_SCALE} and finite; the best is "
                f"{float(scale):g}: fix one instead, scale=0.01"
            )
        self.raw_scale.copy_(unconstrained(scale))
        return self


class Normal(_ClosedFormScale):
    r"""Real data, $p(x | z) = N(x; m(z), s^2 I)$.

    Args:
        net: maps z to means, or to means and then unconstrained scales with `scale="network"`.
        scale: a fixed positive number; "learned", one scalar for all of x, starting at 1 (and
            set to its optimum by `fit_scale`); or "network", one for each x_i as a function of z.

    Raises:
        ValueError: if `scale` is none of these.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = Normal(MLP(20, 400, 2 * 64), scale="network")
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with the network's means."""
        return dist.Normal(*self.location_and_scale(parameters))

    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the root of the mean square."""
        return residuals.square().mean().sqrt()


class Laplace(_ClosedFormScale):
    r"""Real data with heavier tails, $p(x | z) = \prod_i \exp(-|x_i - m_i(z)| / s) / 2s$.

    Args:
        net: maps z to medians, or to medians and unconstrained scales with `scale="network"`.
        scale: as in `Normal`.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> likelihood = Laplace(MLP(20, 400, 64), scale=0.1)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Laplace distribution with the network's medians."""
        return dist.Laplace(*self.location_and_scale(parameters))

    def best_scale(self, residuals: Tensor) -> Tensor:
        """Return the mean distance."""
        return residuals.abs().mean()


class StudentT(_LocationScale):
    r"""Real data with outliers, $p(x | z) = \prod_i t_\nu((x_i - m_i(z)) / s) / s$.

    Far from m the log-density falls as $-(\nu + 1) \log |x_i - m_i|$, not as a square: an outlier
    pulls the network the less the farther it lies.

    Args:
        net: maps z to locations, or to locations and unconstrained scales with
            `scale="network"`.
        df: the degrees of freedom nu, above 1, so that p(x | z) has a mean.
        scale: as in `Normal`; the scale s, not the standard deviation.

    Raises:
        ValueError: if `df` is not above 1 and finite, or `scale` none of the above.

    References:
        Lange, Little, Taylor, 1989. Robust Statistical Modeling Using the t Distribution.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
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
            raise ValueError(f"StudentT takes degrees of freedom above 1 and finite; got df={df}")
        self.df = float(df)

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return Student's t distribution around the network's locations."""
        return dist.StudentT(self.df, *self.location_and_scale(parameters))
