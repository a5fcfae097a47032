r"""Mixture distributions with the component marginalized.

    p(z) = sum_c w_c p_c(z)

`mixture` accepts components of any family. For diagonal normals it returns a `NormalMixture`,
which is scored by matrix products and has reparameterized samples.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

__all__ = ["NormalMixture", "check_component", "check_components", "mixture"]


def mixture(logits: Tensor, components: dist.Distribution) -> dist.Distribution:
    """Return the mixture of C components of any family.

    Args:
        logits: unnormalized log-weights [C].
        components: a distribution with batch shape [C].

    Returns:
        A distribution with batch shape [] and the event shape of the components.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> components = dist.Normal(torch.tensor([[-1.0], [1.0]]), 0.5).to_event(1)
        >>> mixture(torch.zeros(2), components).log_prob(torch.zeros(3, 1)).shape
        torch.Size([3])
    """
    if isinstance(components, td.Independent) and components.reinterpreted_batch_ndims == 1:
        base = components.base_dist
        if isinstance(base, td.Normal):
            return NormalMixture(logits, base.loc, base.scale)
    mixed = dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
    # Pyro's wrapper, unlike torch's expand, does not repeat the components for each datum.
    return ExpandedDistribution(mixed, torch.Size())


class NormalMixture(dist.TorchDistribution):
    r"""A mixture of C diagonal normals, $p(z) = \sum_c w_c N(z; m_c, \mathrm{diag}\, s_c^2)$.

    The squared distances of all values to all components take two matrix products,
    $z^2 \cdot s^{-2} - 2 z \cdot m s^{-2} + m^2 \cdot s^{-2}$. They are computed in float64,
    because the terms cancel when a scale is small: float32 loses 0.01 nats at s = 0.05.

    `rsample` uses implicit reparameterization. The distributional transform
    $u_d = F(z_d | z_{<d})$ maps a sample to uniform variables whose distribution does not depend
    on the parameters $\theta$, so that

    $$ \frac{dz}{d\theta} = -\left( \frac{\partial u}{\partial z} \right)^{-1}
       \frac{\partial u}{\partial \theta}, $$

    with a lower triangular Jacobian. First derivatives are unbiased; second derivatives are not
    defined. The gradient of the weights comes from samples between the components. When the
    components are many scales apart such samples are very rare, and the gradient of the weights
    is dominated by noise.

    Args:
        logits: unnormalized log-weights [..., C].
        loc: means [..., C, D].
        scale: standard deviations [..., C, D].

    References:
        Graves, 2016. Stochastic Backpropagation through Mixture Density Distributions.
        Figurnov, Mohamed, Mnih, 2018. Implicit Reparameterization Gradients.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import NormalMixture
        >>> pair = NormalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
        >>> pair.mean, pair.variance
        (tensor([0.]), tensor([2.]))
    """

    arg_constraints = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        batch = torch.broadcast_shapes(logits.shape[:-1], self.loc.shape[:-2])
        self.logits = logits.log_softmax(-1)
        super().__init__(batch, self.loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, [..., D]."""
        return self._average(self.loc)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, [..., D]."""
        spread = self.loc - self.mean.unsqueeze(-2)
        return self._average(self.scale.square() + spread.square())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), in nats; the leading axes of z broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits + self._component_log_probs(value), dim=-1)

    def component(self, index: Tensor) -> dist.Distribution:
        """Return the component with the given index, which broadcasts with the batch shape."""
        loc, scale = (Vindex(parameter)[..., index, :] for parameter in (self.loc, self.scale))
        return dist.Normal(loc, scale).to_event(1)

    def log_share(self, index: Tensor, value: Tensor) -> Tensor:
        r"""Return the log-responsibility of a component, $\log (w_c p_c(z) / p(z))$."""
        log_joint = Vindex(self.logits)[..., index] + self.component(index).log_prob(value)
        return log_joint - self.log_prob(value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample z, differentiable in the parameters if gradients are enabled."""
        z = self._draw(sample_shape)
        if torch.is_grad_enabled():
            uniform, slopes, jacobian = self._distributional_transform(z)
            moved = ((uniform - uniform.detach()) / slopes).unsqueeze(-1)
            step = torch.linalg.solve_triangular(jacobian, moved, upper=False, unitriangular=True)
            z = z - step.squeeze(-1)
        return z.to(self.loc.dtype)

    @torch.no_grad()
    def _draw(self, sample_shape: Any) -> Tensor:
        """Sample a component, then z from it, in float64.

        In float32, rounding could move z to where all components have zero density.
        """
        shape = self._extended_shape(sample_shape)
        component = dist.Categorical(logits=self.logits).expand(self.batch_shape)
        which = component.sample(sample_shape)[..., None, None].expand(*shape[:-1], 1, shape[-1])
        loc, scale = (
            parameter.expand(*shape[:-1], *parameter.shape[-2:]).gather(-2, which).squeeze(-2)
            for parameter in (self.loc.double(), self.scale.double())
        )
        return loc + scale * torch.randn_like(loc)

    def _average(self, values: Tensor) -> Tensor:
        average = (self.logits.exp().unsqueeze(-1) * values).sum(-2)
        return average.expand(self.batch_shape + self.event_shape)

    def _component_log_probs(self, value: Tensor) -> Tensor:
        z, loc, scale = value.double().unsqueeze(-2), self.loc.double(), self.scale.double()
        precision = scale.reciprocal().square()
        weighted = precision * loc
        products = torch.cat([z.square(), z], -1) @ torch.cat([precision, -2 * weighted], -1).mT
        squares = products.squeeze(-2) + (weighted * loc).sum(-1)
        normalizer = scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * loc.shape[-1]
        return (-0.5 * squares - normalizer).to(value.dtype)

    def _distributional_transform(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u [..., D], the slopes p(z_d | z_<d), and du/dz divided by them row by row."""
        normal = td.Normal(self.loc.double(), self.scale.double(), validate_args=False)
        z = value.unsqueeze(-2)
        log_densities = normal.log_prob(z)
        before = nn.functional.pad(log_densities[..., :-1], (1, 0)).cumsum(-1)
        weights = (self.logits.unsqueeze(-1) + before).softmax(-2)
        cumulative = normal.cdf(z)
        uniform = (weights * cumulative).sum(-2)
        with torch.no_grad():
            slopes = (weights * log_densities.exp()).sum(-2)
            lifts = weights * (cumulative - uniform.unsqueeze(-2)) / slopes.unsqueeze(-2)
            scores = (normal.loc - z) / normal.variance
            jacobian = (lifts.mT @ scores).tril(-1)
        return uniform, slopes, jacobian


def check_components(owner: nn.Module, components: int) -> None:
    """Check the number of components of a mixture.

    Raises:
        ValueError: if it is below 1.
    """
    if components < 1:
        name = type(owner).__name__
        raise ValueError(f"{name} needs at least one component; got {components}")


def check_component(component: str) -> None:
    """Check the option `component` of a mixture.

    Raises:
        ValueError: if it is neither "marginal" nor "enumerated".
    """
    if component not in ("marginal", "enumerated"):
        raise ValueError(f"component must be 'marginal' or 'enumerated'; got {component!r}")
