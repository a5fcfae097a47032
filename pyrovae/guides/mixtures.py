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

    A mixture can represent a multimodal posterior. Both forms have the density of the mixture.
    They differ in how they sample, and therefore in the gradient:

        component="marginal":    one sample of the mixture, implicitly reparameterized (see
                                 `distributions.NormalMixture`). One site, which works with every
                                 objective. When components are far apart, the gradient of their
                                 weights is dominated by noise; that of means and scales is not.
        component="enumerated":  one sample of each component, weighted by w_c(x): the expectation
                                 over components is exact, at the cost of C passes of the decoder.
                                 It is trained by `TraceEnum_ELBO`, which takes no KL weight.

    In the enumerated form, the guide samples an auxiliary site "stratum", then "z", and observes
    a factor that divides by the responsibility r of the stratum,
    $q(z | x) = w_c q_c(z) / r(c | z)$. `log_weights` are those of stratified samples, whose bound
    is tighter than that of one sample. `vae.encode` returns one component; the mixture is
    `guide.distribution(guide.net(x))`.

    Args:
        net: maps x to C logits, then C means [C, D] row by row, then C unconstrained scales
            [C, D] (see `nets.positive`).
        components: the number C of components.
        component: "marginal" or "enumerated".

    Raises:
        ValueError: if `components` is below 1, `component` is neither option, or the network's
            output is not C (1 + 2 D) wide.

    References:
        Figurnov, Mohamed, Mnih, 2018. Implicit Reparameterization Gradients.
        Morningstar et al., 2021. Automatic Differentiation Variational Inference with Mixtures
        (stratified samples).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import MixtureOfNormals
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
        component: Literal["marginal", "enumerated"] = "marginal",
    ) -> None:
        super().__init__(net)
        check_components(self, components)
        check_component(component)
        self.components, self.component = components, component

    @staticmethod
    def width(latents: int, components: int) -> int:
        """Return the width of the network's output for D latent dimensions."""
        return components * (1 + 2 * latents)

    def distribution(self, parameters: Tensor) -> NormalMixture:
        """Return the mixture with logits, means and scales [..., C (1 + 2 D)]."""
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
        """Sample z ~ q(z | x); in the enumerated form, from each component."""
        mixture = self.distribution(self.net(x, *context))
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
