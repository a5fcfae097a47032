"""Lower bounds that are maximized over both the model and the guide."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pyrovae.objectives.base import LowerBound, check_groups
from pyrovae.objectives.gradients import Gradient
from pyrovae.weights import bounds

__all__ = ["CIWAE", "IWAE", "MIWAE", "Renyi"]


@final
class IWAE(LowerBound):
    r"""Maximize the importance-weighted bound, $E \log \frac1K \sum_{i=1}^K w_i$.

    Args:
        particles: the number K of particles; 1 is the ELBO.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`). The signal-to-noise ratio
            of the guide's plain gradient falls with K (Rainforth et al., 2018). That of "dreg"
            is higher, and rises with K where the weights vary moderately (Tucker et al., 2019).

    Raises:
        ValueError: if `particles` is below 1.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> objective = pv.objectives.IWAE(50, gradient="dreg")
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
        >>> svi.step(torch.zeros(5, 64)) > 0
        True
    """

    def __init__(self, particles: int, *, gradient: Gradient = "plain") -> None:
        super().__init__(particles, gradient)

    def value(self, log_w: Tensor) -> Tensor:
        """Return the bound, [N]."""
        return bounds.iwae(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $1 - \bar w_k$, [K, N]."""
        return 1 - bounds.normalized_weights(log_w)


@final
class MIWAE(LowerBound):
    r"""Maximize the mean of m = K / k importance-weighted bounds with k particles each.

    $$ E \frac1m \sum_{j=1}^m \log \frac1k \sum_{i=1}^k w_{ij} $$

    With k = 1, it is the ELBO with K particles.

    Args:
        particles: the number K of particles.
        k: particles per bound, a divisor of K.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: if `particles` is not a positive multiple of k.

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import torch
        >>> from pyrovae.objectives import MIWAE
        >>> MIWAE(2, k=1).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-1.])
    """

    def __init__(self, particles: int, *, k: int, gradient: Gradient = "plain") -> None:
        check_groups(particles, k)
        super().__init__(particles, gradient)
        self.k = k

    def value(self, log_w: Tensor) -> Tensor:
        """Return the mean of the bounds, [N]."""
        return bounds.iwae(log_w, self.k)

    def curvature(self, log_w: Tensor) -> Tensor:
        """Return one minus the weights normalized within each group, [K, N]."""
        return 1 - bounds.normalized_weights(log_w, self.k)


@final
class CIWAE(LowerBound):
    r"""Maximize the convex combination $\beta\, ELBO + (1 - \beta)\, IWAE_K$.

    Args:
        beta: the weight of the ELBO, from 0 to 1.
        particles: the number K of particles.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: if `beta` is not in [0, 1], or `particles` is below 1.

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import torch
        >>> from pyrovae.objectives import CIWAE
        >>> CIWAE(0.5, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.7831])
    """

    def __init__(self, beta: float, particles: int, *, gradient: Gradient = "plain") -> None:
        bounds.check_share(beta)
        super().__init__(particles, gradient)
        self.beta = beta

    def value(self, log_w: Tensor) -> Tensor:
        """Return the convex combination, [N]."""
        return bounds.ciwae(log_w, self.beta)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $(1 - \bar w_k)$ times the share of IWAE in the first derivative, [K, N]."""
        weights = bounds.normalized_weights(log_w)
        if self.beta == 0:
            return 1 - weights
        of_iwae = (1 - self.beta) * weights
        return (1 - weights) * of_iwae / (of_iwae + self.beta / len(log_w))


@final
class Renyi(LowerBound):
    r"""Maximize the Renyi bound, $\frac{1}{1-\alpha} E \log \frac1K \sum_i w_i^{1-\alpha}$.

    alpha = 0 is IWAE. For alpha between 0 and 1, the bound lies between the ELBO and IWAE. For
    negative alpha it is not a lower bound: it exceeds $\log p(x)$ for large K.

    Args:
        alpha: the order, finite and not 1.
        particles: the number K of particles.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: if `alpha` is 1 or not finite, or `particles` is below 1.

    References:
        Li, Turner, 2016. Renyi Divergence Variational Inference.

    Example:
        >>> import torch
        >>> from pyrovae.objectives import Renyi
        >>> Renyi(0.5, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.7598])
    """

    def __init__(self, alpha: float, particles: int, *, gradient: Gradient = "plain") -> None:
        bounds.check_alpha(alpha)
        super().__init__(particles, gradient)
        self.alpha = alpha

    def value(self, log_w: Tensor) -> Tensor:
        """Return the bound of order alpha, [N]."""
        return bounds.renyi(log_w, self.alpha)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $(1 - \alpha)(1 - s_k)$, s the softmax of $(1 - \alpha) \log w$, [K, N]."""
        power = 1 - self.alpha
        return power * (1 - bounds.normalized_weights(power * log_w))
