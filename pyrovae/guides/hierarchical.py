r"""Guides for hierarchical priors, bottom-up or top-down.

bottom-up (`Hierarchical`)   q(z_1 | x) \prod_l q(z_{l+1} | z_l)
top-down (`Ladder`)          q(z_L | x) \prod_l q(z_l | z_{l+1}, x)
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.composition import chain, modules
from pyrovae.nets.heads import diagonal_normal
from pyrovae.parts import Part
from pyrovae.priors.hierarchical import ConditionalNormal
from pyrovae.priors.hierarchical import Hierarchical as Prior

__all__ = ["Hierarchical", "Ladder"]


class Hierarchical(Part):
    r"""Sample the sites "z_1", ..., "z_L" bottom-up, each given the one below.

    $$ q(z_1, \ldots, z_L | x) = q(z_1 | x) \prod_{l < L} q(z_{l+1} | z_l) $$

    The bottom level may be any guide. Each higher level is called with the latent below in place
    of x, and then the context. A top latent that is enumerated in the prior may be omitted. The
    order differs from the prior's, so the sum of the sites' closed-form KLs is not the rate: use
    `Trace_ELBO`, not `TraceMeanField_ELBO`.

    Args:
        *levels: guides from the bottom, z_1, to the top, z_L.

    Raises:
        ValueError: if there are no levels, or one of them is not a module.

    References:
        Rezende, Mohamed, Wierstra, 2014. Stochastic Backpropagation.
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import MeanFieldNormal
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import Hierarchical
        >>> guide = Hierarchical(
        ...     MeanFieldNormal(MLP(64, 50, 2 * 20)), MeanFieldNormal(MLP(20, 50, 2 * 2))
        ... )
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 64)).shape
        torch.Size([3, 20])
        >>> list(tape.trace.nodes)
        ['data', 'z_1', 'z_2']
    """

    def __init__(self, *levels: nn.Module) -> None:
        super().__init__()
        self.levels = modules(self, levels)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample every level and return z_1, [..., D_1]."""
        return chain(self.levels, range(1, len(self.levels) + 1), (x,), context)[0]


class Ladder(Part):
    r"""Sample the sites "z_L", ..., "z_1" top-down, sharing the networks of the prior.

    A deterministic upward pass, $d_0 = x$, $d_l = \mathrm{up}_l(d_{l-1})$, gives each level an
    estimate $N(\hat m_l, \hat s_l^2)$. The top latent is sampled from its estimate. Each lower
    latent is sampled from the normalized product of its estimate and its prior
    $N(m_l(z_{l+1}), s_l(z_{l+1})^2)$:

    $$ q(z_l | z_{l+1}, x) = N\left( \frac{\hat m_l \hat s_l^{-2} + m_l s_l^{-2}}
       {\hat s_l^{-2} + s_l^{-2}},\; \frac{1}{\hat s_l^{-2} + s_l^{-2}} \right) $$

    Args:
        prior: the `priors.Hierarchical` of the same VAE (the same object), with a
            `ConditionalNormal` at each level below the top.
        upward: a network for each level, from the bottom; the first takes (x, *context).
        estimates: a network for each level, from the bottom. It maps $d_l$ to 2 D_l numbers: D_l
            means, then D_l unconstrained scales (see `nets.positive`).

    Raises:
        ValueError: if the numbers of levels differ, a level below the prior's top is not a
            `ConditionalNormal`, or an estimate does not have the width of its level.

    References:
        Sonderby, Raiko, Maaloe, Sonderby, Winther, 2016. Ladder Variational Autoencoders.

    Example:
        >>> import pyro, torch
        >>> from pyrovae import priors
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import Ladder
        >>> prior = priors.Hierarchical(
        ...     priors.StandardNormal(2), priors.ConditionalNormal(MLP(2, 50, 2 * 20))
        ... )
        >>> guide = Ladder(
        ...     prior,
        ...     upward=[MLP(64, 50), MLP(50, 30)],
        ...     estimates=[MLP(50, 2 * 20), MLP(30, 2 * 2)],
        ... )
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 64)).shape
        torch.Size([3, 20])
        >>> list(tape.trace.nodes)
        ['data', 'z_2', 'z_1']
    """

    def __init__(
        self, prior: Prior, *, upward: Sequence[nn.Module], estimates: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        _check_levels(prior, len(upward), len(estimates))
        self.prior = prior
        self.upward = modules(self, upward)
        self.estimates = modules(self, estimates)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample every level and return z_1, [..., D_1]."""
        *lower, top = self._estimates(x, *context)
        z: Tensor = pyro.sample(f"z_{len(lower) + 1}", top)
        for name, conditional in _conditionals(self.prior).items():
            prior = conditional.distribution(z, *context)
            z = pyro.sample(name, _product(lower.pop(), prior, name))
        return z

    def _estimates(self, x: Tensor, *context: Tensor) -> list[dist.Distribution]:
        """Return each level's estimate from x, from the bottom to the top."""
        features, found = (x, *context), []
        for up, estimate in zip(self.upward, self.estimates, strict=True):
            features = (up(*features),)
            found.append(diagonal_normal(estimate(*features), self))
        return found


def _product(
    estimate: dist.Distribution, prior: dist.Distribution, name: str
) -> dist.Distribution:
    """Return the normal with density proportional to the product of two normal densities."""
    if estimate.event_shape != prior.event_shape:
        raise ValueError(
            f"site '{name}' has {prior.event_shape[0]} dimensions in the prior; got an estimate "
            f"of {estimate.event_shape[0]}: give its network {2 * prior.event_shape[0]} outputs"
        )
    precisions = estimate.variance.reciprocal(), prior.variance.reciprocal()
    variance = (precisions[0] + precisions[1]).reciprocal()
    loc = variance * (precisions[0] * estimate.mean + precisions[1] * prior.mean)
    return dist.Normal(loc, variance.sqrt()).to_event(1)


def _check_levels(prior: Prior, upward: int, estimates: int) -> None:
    if not isinstance(prior, Prior):
        raise ValueError(
            f"Ladder takes a priors.Hierarchical as its prior; got {type(prior).__name__}"
        )
    if not upward == estimates == len(prior.levels):
        raise ValueError(
            f"the prior has {len(prior.levels)} levels; got {upward} upward networks and "
            f"{estimates} estimates: give one of each per level, including the top"
        )
    _conditionals(prior)


def _conditionals(prior: Prior) -> dict[str, ConditionalNormal]:
    """Return the levels below the top by the names of their sites, from the top down."""
    found = {}
    levels = list(prior.levels)[1:]
    for number, level in zip(range(len(levels), 0, -1), levels, strict=True):
        if not isinstance(level, ConditionalNormal):
            raise ValueError(
                f"Ladder multiplies normals, so site 'z_{number}' needs a ConditionalNormal in "
                f"the prior; got {type(level).__name__}"
            )
        found[f"z_{number}"] = level
    return found
