r"""A normalizing flow for each datum alone: its posterior q(z | x_n), bent by maps of its own.

    z = m_n + s_n T_n((y - m_n) / s_n),     y ~ q(z | x_n),     T_n starts as the identity

T_n is a chain of couplings. Each leaves one part of the dimensions as it is and maps every number
e of the other, with four numbers that depend on the first part, to

    a + b sinh(c asinh(e) + d):             place, spread, tails and skewness.

Derivative and inverse are closed, and one pass draws and scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyrovae.nets import SMALLEST_SCALE

Family = Callable[[Tensor], dist.Distribution]

DRAWS: Final = 256
"""How many draws of a posterior tell where it lies."""

LIMIT: Final = 0.5
"""The most that a coupling adds to the skewness and to the logarithms of spread and tails."""


@dataclass(frozen=True)
class PerDatumFlow:
    r"""Bend each datum's posterior by a flow whose weights are that datum's own.

    No network of x is in the way: what such a family loses on log p(x) is the family's own loss,
    not the encoder's. It holds the posterior that it starts from, of whatever family, and keeps
    its support, through the bijection from real vectors that torch has for it.

    Args:
        transforms: how many couplings.
        hidden: the width of the one hidden layer of a coupling's network.

    Raises:
        ValueError: if either is below 1.

    References:
        Dinh, Sohl-Dickstein, Bengio, 2017. Density Estimation Using Real NVP (couplings).
        Jones, Pewsey, 2009. Sinh-arcsinh Distributions.
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> guide = pv.refine(vae, torch.zeros(5, 64), steps=10, family=pv.PerDatumFlow())
        >>> guide(torch.zeros(5, 64)).shape
        torch.Size([5, 2])
    """

    transforms: int = 4
    hidden: int = 16

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.transforms < 1 or self.hidden < 1:
            raise ValueError(
                "a flow has at least one transform and one hidden unit; got transforms="
                f"{self.transforms}, hidden={self.hidden}"
            )

    def around(self, base: Family, parameters: Tensor) -> tuple[Family, Tensor]:
        """Return the family of bent posteriors, and the parameters at which they are not bent.

        Args:
            base: makes a distribution with batch shape [N] of parameters [N, P].
            parameters: [N, P]. They stand first in what is returned, [N, P + ...].

        Raises:
            ValueError: if the base's support is none that real vectors map onto one to one.
        """
        with torch.no_grad():
            start = base(parameters)
            draws = _to_vectors(start).inv(start.sample(torch.Size([DRAWS])))
        couplings = [
            _Coupling(draws.shape[-1], index, self.hidden) for index in range(self.transforms)
        ]
        spread = draws.std(0).clamp(min=SMALLEST_SCALE)
        weights = [coupling.weights(parameters) for coupling in couplings]
        columns = [parameters, draws.mean(0), spread.log(), *weights]
        widths = [column.shape[-1] for column in columns]

        def family(numbers: Tensor) -> dist.Distribution:
            own, loc, log_scale, *weights = numbers.split(widths, dim=-1)
            q = base(own)
            unit = td.AffineTransform(loc.detach(), log_scale.detach().exp(), 1, cache_size=1)
            bends = [c.bend(w) for c, w in zip(couplings, weights, strict=True)]
            out_of, into = _to_vectors(q).inv, _to_vectors(q)
            return _Bent(q, [out_of, unit.inv, *bends, unit, into])

        return family, torch.cat(columns, dim=-1)


class _Coupling:
    """Which dimensions a coupling leaves and which it bends, and the layout of its weights.

    A dimension is bent where one binary digit of its number is 0, or 1: couplings go through the
    digits in turn, so that some coupling parts any two dimensions. A single one is always bent.
    """

    def __init__(self, latents: int, index: int, hidden: int) -> None:
        digits = max(1, (latents - 1).bit_length())
        digit = torch.arange(latents) >> (index // 2) % digits & 1
        bent = (digit == index % 2) | torch.tensor(latents == 1)
        self.kept, self.bent = (~bent).nonzero().squeeze(1), bent.nonzero().squeeze(1)
        self.order = torch.cat([self.kept, self.bent]).argsort()
        self.hidden = hidden
        kept, features = len(self.kept), len(self.kept) + hidden + 1
        self.shapes = [(kept, hidden), (1, hidden), (features, 4 * len(self.bent))]

    def weights(self, like: Tensor) -> Tensor:
        """Return the weights [N, ...] at which nothing is bent: the last layer is zero."""
        inner, bias, last = (like.new_zeros(len(like), math.prod(shape)) for shape in self.shapes)
        spread = len(self.kept) ** 0.5
        return torch.cat([spread * torch.randn_like(inner), torch.randn_like(bias), last], dim=-1)

    def bend(self, weights: Tensor) -> _Bend:
        """Return the map with these weights."""
        flat = weights.split([math.prod(shape) for shape in self.shapes], dim=-1)
        layers = [part.unflatten(-1, shape) for part, shape in zip(flat, self.shapes, strict=True)]
        return _Bend(self, layers)


class _Bent(dist.TransformedDistribution):
    """A distribution that was bent within its support."""

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return self.base_dist.support


class _Bend(td.Transform):
    """Map e to a + b sinh(c asinh(e) + d) where a, b, c, d depend on the dimensions kept."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, coupling: _Coupling, layers: list[Tensor]) -> None:
        super().__init__(cache_size=1)
        self.coupling, self.layers = coupling, layers
        self._of: tuple[Any, ...] = (None, ())

    def _call(self, x: Tensor) -> Tensor:
        place, spread, tails, skewness = self._numbers(x)
        angle = tails.exp() * x[..., self.coupling.bent].asinh() + skewness
        return self._with(x, place + spread.exp() * angle.sinh())

    def _inverse(self, y: Tensor) -> Tensor:
        place, spread, tails, skewness = self._numbers(y)
        angle = ((y[..., self.coupling.bent] - place) / spread.exp()).asinh()
        return self._with(y, ((angle - skewness) / tails.exp()).sinh())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        _, spread, tails, skewness = self._numbers(x)
        e = x[..., self.coupling.bent]
        angle = tails.exp() * e.asinh() + skewness
        log_cosh = torch.logaddexp(angle, -angle) - math.log(2)
        return (spread + tails + log_cosh - e.square().log1p() / 2).sum(-1)

    def _with(self, x: Tensor, bent: Tensor) -> Tensor:
        """Put the bent dimensions back among those of x."""
        together = torch.cat([x[..., self.coupling.kept], bent], dim=-1)
        return together[..., self.coupling.order]

    def _numbers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a, log b, log c and d; those of the x asked for last are remembered."""
        if self._of[0] is not x:
            self._of = (x, self._network(x[..., self.coupling.kept]))
        return self._of[1]

    def _network(self, kept: Tensor) -> tuple[Tensor, ...]:
        """Apply each datum's own network, linear in what is kept and in H units of tanh."""
        inner, bias, last = self.layers
        units = (_mean(kept, inner) + bias.squeeze(-2)).tanh()
        features = torch.cat([kept, units, torch.ones_like(units[..., :1])], dim=-1)
        numbers = _mean(features, last) / len(self.coupling.bent) ** 0.5
        place, *others = numbers.chunk(4, dim=-1)
        return place, *(LIMIT * (other / LIMIT).tanh() for other in others)


def _mean(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply rows [..., N, I] by a matrix for each datum, [N, I, J], and divide by I.

    A mean, not a sum, and divided by the root of the dimensions that it moves: a step of so much
    on every weight then moves a point as far at most, by Euclid, whatever the widths. So one step
    size serves two dimensions and fifty.
    """
    return torch.einsum("...ni,nij->...nj", x, matrices) / max(1, x.shape[-1])


def _to_vectors(q: dist.Distribution) -> td.Transform:
    """Return the map from real vectors onto the support of q."""
    if isinstance(q, ExpRelaxedCategorical):
        raise _not_a_vector(q)
    try:
        onto = td.biject_to(q.support)
    except NotImplementedError:
        raise _not_a_vector(q) from None
    shape = onto.inverse_shape(q.event_shape)
    vector = td.ReshapeTransform(torch.Size([shape.numel()]), shape, cache_size=1)
    return td.ComposeTransform([vector, onto.with_cache(1)], cache_size=1)


def _not_a_vector(q: dist.Distribution) -> ValueError:
    return ValueError(
        f"a flow bends what real vectors map onto one to one; got a {type(q).__name__}: refine "
        "within its own family, family=None"
    )
