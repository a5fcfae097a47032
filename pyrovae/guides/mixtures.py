"""Mixture posteriors."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.distributions.mixtures import NormalMixture, check_component, check_components
from pyrovae.guides.base import Posterior
from pyrovae.nets import positive
from pyrovae.weights.auxiliary import REVERSE_DENSITY

__all__ = ["MixtureOfNormals"]


class MixtureOfNormals(Posterior):
    r"""The posterior $q(z | x) = \sum_c w_c(x) N(m_c(x), \mathrm{diag}\, s_c(x)^2)$.

    It can lie in several places at once, where the model explains x in several ways. The density
    is that of the mixture in both forms; they differ in what is drawn, and so in the gradient:

        component="enumerated":  a draw from each component, weighed by w_c(x): the expectation
                                 over components is exact. Costs C passes of the decoder; trained
                                 by `TraceEnum_ELBO`, which takes no KL weight.
        component="marginal":    one draw from the mixture, with the gradient of implicit
                                 reparameterization (see `mixtures.NormalMixture`). One site, any
                                 objective. Where components lie far apart, their weights are
                                 learned from the rare draws between them: next to nothing but
                                 noise. Means and scales do not suffer.

    In the enumerated form the guide samples an auxiliary site "stratum", then "z", and takes the
    share of the stratum in the density at z back by a factor, $q(z | x) = w_c q_c(z) / r(c | z)$.
    `log_weights` are then those of stratified draws, a tighter bound than one draw has, and
    `vae.encode` meets one component; the mixture is `guide.posterior(guide.net(x))`.

    Args:
        net: maps x to C logits, then the C means [C, D] row by row, then the C unconstrained
            scales [C, D] (see `nets.positive`).
        components: C.
        component: "enumerated" or "marginal".

    Raises:
        ValueError: if there is no component, `component` is neither form, or the network's output
            is not C (1 + 2 D) wide.

    References:
        Figurnov, Mohamed, Mnih, 2018. Implicit Reparameterization Gradients.
        Morningstar et al., 2021. Automatic Differentiation Variational Inference with Mixtures
        (stratified draws).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> guide = MixtureOfNormals(MLP(784, 400, MixtureOfNormals.width(20, 3)), components=3)
        >>> with pyro.plate("data", 5):
        ...     guide(torch.zeros(5, 784)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        net: nn.Module,
        components: int,
        *,
        component: Literal["enumerated", "marginal"] = "enumerated",
    ) -> None:
        super().__init__(net)
        check_components(self, components)
        check_component(component)
        self.components, self.component = components, component

    @staticmethod
    def width(latents: int, components: int) -> int:
        """Return the number of the network's outputs for D latent dimensions."""
        return components * (1 + 2 * latents)

    def posterior(self, parameters: Tensor) -> NormalMixture:
        """Return the mixture of logits, means and scales [..., C (1 + 2 D)]."""
        width, count = parameters.shape[-1], self.components
        latents = (width // count - 1) // 2
        if latents < 1 or self.width(latents, count) != width:
            raise ValueError(
                f"MixtureOfNormals of {count} components expected a network with {count} "
                f"(1 + 2 D) outputs; got {width}. Use MixtureOfNormals.width(D, {count})"
            )
        logits, loc, raw = parameters.split([count, count * latents, count * latents], dim=-1)
        loc, raw = (numbers.unflatten(-1, (count, latents)) for numbers in (loc, raw))
        return NormalMixture(logits, loc, positive(raw))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x), in the enumerated form from each component where it is summed."""
        mixture = self.posterior(self.net(x, *context))
        if self.component == "marginal":
            z: Tensor = pyro.sample("z", mixture)
            return z
        infer = {"enumerate": "parallel", "is_auxiliary": True}
        stratum = pyro.sample("stratum", dist.Categorical(logits=mixture.logits), infer=infer)
        z = pyro.sample("z", mixture.component(stratum))
        reverse = dist.Unit(-mixture.log_share(stratum, z), has_rsample=True)
        infer = {"is_auxiliary": True, REVERSE_DENSITY: True}
        pyro.sample("stratum_given_z", reverse, obs=reverse.sample(), infer=infer)
        return z
