r"""A normalizing flow with separate weights for each datum, on top of its posterior q(z | x_n).

    z = m_n + s_n T_n((y - m_n) / s_n),     y ~ q(z | x_n),     T_n starts as the identity

T_n is a composition of coupling transforms. Each keeps one part of the dimensions and maps every
entry e of the other part to

    a + b sinh(c asinh(e) + d)              (location, scale, tail weight and skewness),

where a, b, c and d depend on the part that is kept. The inverse and the derivative have closed
forms, so sampling and scoring take one pass each.
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

from pyrovae.nets import SMALLEST_SCALE
from pyrovae.weights.sites import support_of

__all__ = ["Family", "PerDatumFlow"]

Family = Callable[[Tensor], dist.Distribution]
"""A function of parameters [N, P] that returns a distribution of batch shape [N]."""

DRAWS: Final = 256
"""The number of draws that estimate the mean and the scale of a posterior."""

LIMIT: Final = 0.5
"""The bound on a coupling's skewness and on the logarithms of its scale and tail weight."""


@dataclass(frozen=True)
class PerDatumFlow:
    r"""Transform each datum's posterior by a flow with weights of its own.

    The weights are not the output of a network of x, so the gap of this family to log p(x) has no
    amortization part. The family contains the posterior that it starts from, and keeps its
    support, by torch's bijection from real vectors to it.

    Args:
        transforms: the number of coupling transforms.
        hidden: the width of the hidden layer of a coupling's network.

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
                "expected at least one transform and one hidden unit; got transforms="
                f"{self.transforms}, hidden={self.hidden}: raise the one below 1"
            )

    def around(self, base: Family, parameters: Tensor) -> tuple[Family, Tensor]:
        """Return the family of transformed posteriors, and its parameters at the identity.

        Args:
            base: the family of the posterior, a function of parameters [N, P].
            parameters: the parameters of the posterior, [N, P]. They are the first columns of the
                returned parameters [N, P + ...].

        Raises:
            ValueError: if torch has no bijection from real vectors to the base's support.
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
    """The dimensions that a coupling keeps and transforms, and the shapes of its weights.

    A dimension is transformed if a binary digit of its index is 0 (or 1). Couplings use the digits
    in turn, so any two dimensions are separated by some coupling. A single dimension is always
    transformed.
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
        """Return weights [N, ...] of the identity: random, except for a last layer of zeros."""
        inner, bias, last = (like.new_zeros(len(like), math.prod(shape)) for shape in self.shapes)
        spread = len(self.kept) ** 0.5
        return torch.cat([spread * torch.randn_like(inner), torch.randn_like(bias), last], dim=-1)

    def bend(self, weights: Tensor) -> _Bend:
        """Return the transform with these weights."""
        flat = weights.split([math.prod(shape) for shape in self.shapes], dim=-1)
        layers = [part.unflatten(-1, shape) for part, shape in zip(flat, self.shapes, strict=True)]
        return _Bend(self, layers)


class _Bent(dist.TransformedDistribution):
    """A distribution that is transformed within its support."""

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return self.base_dist.support


class _Bend(td.Transform):
    """Map e to a + b sinh(c asinh(e) + d), where a, b, c, d depend on the kept dimensions."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, coupling: _Coupling, layers: list[Tensor]) -> None:
        super().__init__(cache_size=1)
        self.coupling, self.layers = coupling, layers
        self._cache: tuple[Any, ...] = (None, ())

    def _call(self, x: Tensor) -> Tensor:
        location, log_scale, log_tails, skewness = self._numbers(x)
        angle = log_tails.exp() * x[..., self.coupling.bent].asinh() + skewness
        return self._with(x, location + log_scale.exp() * angle.sinh())

    def _inverse(self, y: Tensor) -> Tensor:
        location, log_scale, log_tails, skewness = self._numbers(y)
        angle = ((y[..., self.coupling.bent] - location) / log_scale.exp()).asinh()
        return self._with(y, ((angle - skewness) / log_tails.exp()).sinh())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        _, log_scale, log_tails, skewness = self._numbers(x)
        e = x[..., self.coupling.bent]
        angle = log_tails.exp() * e.asinh() + skewness
        log_cosh = torch.logaddexp(angle, -angle) - math.log(2)
        return (log_scale + log_tails + log_cosh - e.square().log1p() / 2).sum(-1)

    def _with(self, x: Tensor, bent: Tensor) -> Tensor:
        """Combine the transformed dimensions with the kept dimensions of x."""
        together = torch.cat([x[..., self.coupling.kept], bent], dim=-1)
        return together[..., self.coupling.order]

    def _numbers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a, log b, log c and d; those of the last x are cached."""
        if self._cache[0] is not x:
            self._cache = (x, self._network(x[..., self.coupling.kept]))
        return self._cache[1]

    def _network(self, kept: Tensor) -> tuple[Tensor, ...]:
        """Apply each datum's network, linear in the kept dimensions and H tanh units."""
        inner, bias, last = self.layers
        units = (_mean(kept, inner) + bias.squeeze(-2)).tanh()
        features = torch.cat([kept, units, torch.ones_like(units[..., :1])], dim=-1)
        numbers = _mean(features, last) / len(self.coupling.bent) ** 0.5
        location, *others = numbers.chunk(4, dim=-1)
        return location, *(LIMIT * (other / LIMIT).tanh() for other in others)


def _mean(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply rows [..., N, I] by a matrix per datum [N, I, J], and divide by I.

    The mean over inputs, divided by the root of the number of outputs, bounds how far a step of
    fixed size on every weight moves a point, whatever the widths. One step size therefore suits
    two dimensions and fifty.
    """
    return torch.einsum("...ni,nij->...nj", x, matrices) / max(1, x.shape[-1])


def _to_vectors(q: dist.Distribution) -> td.Transform:
    """Return the bijection from real vectors to the support of q.

    Raises:
        ValueError: if torch has none.
    """
    try:
        onto = td.biject_to(support_of(q))
    except NotImplementedError:
        raise ValueError(
            "a per-datum flow needs a bijection from real vectors to the support of q; got a "
            f"{type(q).__name__}, which has none: refine within its own family, family=None"
        ) from None
    shape = onto.inverse_shape(q.event_shape)
    vector = td.ReshapeTransform(torch.Size([shape.numel()]), shape, cache_size=1)
    return td.ComposeTransform([vector, onto.with_cache(1)], cache_size=1)
