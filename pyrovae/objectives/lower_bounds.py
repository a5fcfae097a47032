"""Lower bounds that model and guide raise together."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pyrovae.objectives.base import LowerBound, product_of
from pyrovae.objectives.gradients import (
    Gradient,
)
from pyrovae.weights import bounds

__all__ = ["CIWAE", "IWAE", "MIWAE", "Renyi"]


@final
class IWAE(LowerBound):
    r"""Raise the importance-weighted bound, $E \log \frac1k \sum_{i=1}^k w_i$.

    Args:
        k: particles in the bound; 1 is the ELBO.
        gradient: "plain", "stl" or "dreg" (see the module). The plain gradient's signal for the
            guide falls with k (Rainforth et al., 2018); that of "dreg" does not.

    Raises:
        ValueError: if k is below 1.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> objective = IWAE(50, gradient="dreg")
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
        >>> svi.step(torch.zeros(5, 64)) > 0
        True
    """

    def __init__(self, k: int, gradient: Gradient = "plain") -> None:
        super().__init__(k, gradient)

    def value(self, log_w: Tensor) -> Tensor:
        """Return the bound at k particles."""
        return bounds.iwae(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $1 - \bar w_k$."""
        return 1 - bounds.normalized_weights(log_w)


@final
class MIWAE(LowerBound):
    r"""Raise the mean of m importance-weighted bounds at k particles each.

    $$ E \frac1m \sum_{j=1}^m \log \frac1k \sum_{i=1}^k w_{ij} $$

    With k = 1 it is the ELBO with m particles.

    Args:
        m: bounds that are averaged.
        k: particles in each.
        gradient: "plain", "stl" or "dreg".

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import torch
        >>> MIWAE(2, 1).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-1.])
    """

    def __init__(self, m: int, k: int, gradient: Gradient = "plain") -> None:
        super().__init__(product_of(m, k), gradient)
        self.k = k

    def value(self, log_w: Tensor) -> Tensor:
        """Return the mean of the bounds."""
        return bounds.iwae(log_w, self.k)

    def curvature(self, log_w: Tensor) -> Tensor:
        """Return one minus the weight normalized within its own bound."""
        return 1 - bounds.normalized_weights(log_w, self.k)


@final
class CIWAE(LowerBound):
    r"""Raise the convex combination $\beta\, ELBO + (1 - \beta)\, IWAE_k$.

    Args:
        beta: the ELBO's share, from 0 to 1.
        k: particles.
        gradient: "plain", "stl" or "dreg".

    Raises:
        ValueError: if beta is not between 0 and 1.

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> import torch
        >>> CIWAE(0.5, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.7831])
    """

    def __init__(self, beta: float, k: int, gradient: Gradient = "plain") -> None:
        bounds.check_share(beta)
        super().__init__(k, gradient)
        self.beta = beta

    def value(self, log_w: Tensor) -> Tensor:
        """Return the convex combination."""
        return bounds.ciwae(log_w, self.beta)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $(1 - \beta)(1 - \bar w_k)$ times the share of IWAE in the slope."""
        weights = bounds.normalized_weights(log_w)
        if self.beta == 0:
            return 1 - weights
        of_iwae = (1 - self.beta) * weights
        return (1 - weights) * of_iwae / (of_iwae + self.beta / len(log_w))


@final
class Renyi(LowerBound):
    r"""Raise the Renyi bound, $\frac{1}{1-\alpha} E \log \frac1k \sum_i w_i^{1-\alpha}$.

    alpha = 0 is IWAE; alpha between 0 and 1 lies between IWAE and the ELBO; a negative alpha
    gives an optimistic bound, above $\log p(x)$ for large k.

    Args:
        alpha: the order, other than 1.
        k: particles.
        gradient: "plain", "stl" or "dreg".

    Raises:
        ValueError: if alpha is 1 or not finite.

    References:
        Li, Turner, 2016. Renyi Divergence Variational Inference.

    Example:
        >>> import torch
        >>> Renyi(0.5, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.7598])
    """

    def __init__(self, alpha: float, k: int, gradient: Gradient = "plain") -> None:
        bounds.check_alpha(alpha)
        super().__init__(k, gradient)
        self.alpha = alpha

    def value(self, log_w: Tensor) -> Tensor:
        """Return the bound of order alpha."""
        return bounds.renyi(log_w, self.alpha)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $(1 - \alpha)(1 - s_k)$, s the softmax of $(1 - \alpha) \log w$."""
        power = 1 - self.alpha
        return power * (1 - bounds.normalized_weights(power * log_w))
