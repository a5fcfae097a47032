r"""Distributions on the unit sphere $S^{D-1}$, with densities with respect to surface area.

For uniform x, the height $h = (1 + \mu^\top x) / 2$ along any direction $\mu$ is distributed as
Beta(b, b) with $b = (D - 1) / 2$. The power-spherical density is proportional to $h^\kappa$, so
its height is distributed as Beta(b + kappa, b). Sampling, moments and the KL divergence follow.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.nn.functional import normalize

__all__ = ["PowerSpherical", "SphericalUniform", "log_area"]

_NO_SHAPE: Final = torch.Size()


class _Sphere(constraints.Constraint):
    """Unit vectors, to the accuracy of float32: float32 samples may be scored in float64."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        eps = max(torch.finfo(dtype).eps for dtype in (value.dtype, torch.float32))
        return (value.norm(dim=-1) - 1).abs() < 10 * eps * value.shape[-1] ** 0.5


sphere: Final = _Sphere()


class SphericalUniform(dist.TorchDistribution):
    r"""The uniform distribution on the unit sphere, $p(x) = \Gamma(D/2) / (2 \pi^{D/2})$.

    Args:
        origin: zeros [..., D], which set the shape, the dtype and the device.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import SphericalUniform
        >>> SphericalUniform(torch.zeros(2)).log_prob(torch.tensor([0.6, 0.8]))
        tensor(-1.8379)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = sphere
    has_rsample = True

    def __init__(self, origin: Tensor) -> None:
        self.origin = origin
        super().__init__(origin.shape[:-1], origin.shape[-1:])

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> SphericalUniform:
        """Return the distribution with another batch shape."""
        return SphericalUniform(self.origin.expand(*batch_shape, -1))

    def rsample(self, sample_shape: torch.Size = _NO_SHAPE) -> Tensor:
        """Sample x [..., D]; there are no parameters to differentiate."""
        return normalize(_normal_like(self.origin, self._extended_shape(sample_shape)), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the constant log-density at x, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return -log_area(value.shape[-1]) + value.new_zeros(shape)


class PowerSpherical(dist.TorchDistribution):
    r"""The power-spherical distribution, $p(x) \propto (1 + \mu^\top x)^\kappa$.

    It resembles the von Mises-Fisher distribution, but is reparameterized, and needs neither
    Bessel functions nor rejection sampling.

    Args:
        loc: the mean direction mu, unit vectors [..., D], D >= 2.
        concentration: kappa > 0, [...].

    References:
        De Cao, Aziz, 2020. The Power Spherical distribution.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import PowerSpherical, SphericalUniform
        >>> q = PowerSpherical(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(2.0))
        >>> q.mean
        tensor([0.5000, 0.0000, 0.0000])
        >>> torch.distributions.kl_divergence(q, SphericalUniform(torch.zeros(3)))
        tensor(0.4319)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": sphere,
        "concentration": constraints.positive,
    }
    support = sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch_shape, -1)
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:])

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> PowerSpherical:
        """Return the distribution with another batch shape."""
        loc = self.loc.expand(*batch_shape, -1)
        return PowerSpherical(loc, self.concentration.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        r"""The mean $\mu \kappa / (\kappa + D - 1)$, a point inside the sphere."""
        kappa = self.concentration.unsqueeze(-1)
        return self.loc * kappa / (kappa + self.event_shape[0] - 1)

    def rsample(self, sample_shape: torch.Size = _NO_SHAPE) -> Tensor:
        """Sample x [..., D] from its height along mu and a direction orthogonal to mu."""
        shape = self._extended_shape(sample_shape)
        noise = _normal_like(self.loc, shape)
        across = normalize(noise - (noise * self.loc).sum(-1, keepdim=True) * self.loc, dim=-1)
        b = self._uniform_shape
        # The height is g / (g + g') for two gamma variables. Their square roots are proportional
        # to the cosine and sine of half the angle from mu, which is accurate for small angles.
        toward = _root_of_gamma(self.concentration + b, sample_shape)
        away = _root_of_gamma(torch.full_like(self.concentration, b), sample_shape)
        along = (toward - away) * (toward + away)
        return normalize(along * self.loc + 2 * toward * away * across, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at x, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        weight = self.concentration * _log_height(value, self.loc)
        return weight - self._log_mean_weight().to(weight.dtype) - log_area(self.event_shape[0])

    def entropy(self) -> Tensor:
        """Return the differential entropy, in nats."""
        return log_area(self.event_shape[0]) - self.kl_to_uniform()

    def kl_to_uniform(self) -> Tensor:
        r"""Return KL(q || uniform), $E_q[\kappa \log h] - \log M$, in nats."""
        b, kappa = self._uniform_shape, self.concentration.double()
        mean_log_height = torch.digamma(b + kappa) - torch.digamma(2 * b + kappa)
        return (kappa * mean_log_height - self._log_mean_weight()).to(self.concentration.dtype)

    @property
    def _uniform_shape(self) -> float:
        return (self.event_shape[0] - 1) / 2

    def _log_mean_weight(self) -> Tensor:
        r"""Return the logarithm of $M = E_U[h^\kappa] = B(b + \kappa, b) / B(b, b)$.

        It is computed in float64, because the log-gamma functions of a large kappa cancel.
        """
        b, kappa = self._uniform_shape, self.concentration.double()
        constant = math.lgamma(2 * b) - math.lgamma(b)
        return torch.lgamma(b + kappa) - torch.lgamma(2 * b + kappa) + constant


@register_kl(PowerSpherical, SphericalUniform)
def _kl_to_uniform(q: PowerSpherical, p: SphericalUniform) -> Tensor:
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    return q.kl_to_uniform().expand(shape)


def log_area(dimension: int) -> float:
    r"""Return the logarithm of the area of the unit sphere in D dimensions.

    $$ |S^{D-1}| = 2 \pi^{D/2} / \Gamma(D/2) $$

    Example:
        >>> import math
        >>> round(math.exp(log_area(3)) / math.pi, 6)
        4.0
    """
    return math.log(2) + dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2)


def _log_height(x: Tensor, pole: Tensor) -> Tensor:
    """Return log((1 + pole . x) / 2), computed from distances for accuracy at both ends.

    The squared distances to the pole and to its antipode sum to 4. The latter is clamped above
    zero, which it can only reach by rounding.
    """
    near, far = (x - pole).square().sum(-1), (x + pole).square().sum(-1)
    return -torch.log1p(near / far.clamp(min=torch.finfo(x.dtype).eps ** 2))


def _normal_like(like: Tensor, shape: torch.Size) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def _root_of_gamma(shape: Tensor, sample_shape: torch.Size) -> Tensor:
    gamma = dist.Gamma(shape, torch.ones_like(shape))
    return gamma.rsample(sample_shape).sqrt().unsqueeze(-1)
