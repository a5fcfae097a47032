"""The chi upper bound as an objective of the guide."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pyrovae.objectives.base import Objective
from pyrovae.objectives.gradients import Bound, Draw, Gradient, Programs, draw, surrogate
from pyrovae.weights import bounds

__all__ = ["CUBO"]


@final
class CUBO(Objective, Bound):
    r"""Minimize the chi upper bound over the guide, $\frac1n \log \frac1K \sum_i w_i^n$.

    The exact $CUBO_n = \frac1n \log E_q[w^n]$ is an upper bound on $\log p(x)$. Its estimate from
    K particles is biased low, often strongly, and may fall below $\log p(x)$. Minimizing an upper
    bound does not train the model, so the model gets no gradient.

    Args:
        n: the order of the bound, at least 1.
        particles: the number K of particles.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: if `n` or `particles` is below 1.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei, 2017. Variational Inference via chi Upper Bound
        Minimization.

    Example:
        >>> import torch
        >>> from pyrovae.objectives import CUBO
        >>> CUBO(2, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.3375])
        >>> print(CUBO(2, 50))
        minus CUBO, 50 particles (estimates an upper bound, biased low: it may fall under log p(x))
    """

    raises = "minus "
    warning = " (estimates an upper bound, biased low: it may fall under log p(x))"

    def __init__(self, n: float, particles: int, *, gradient: Gradient = "plain") -> None:
        bounds.check_order(n)
        super().__init__(particles, gradient)
        self.n = n

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the particles and the estimate of each datum, [N]."""
        drawn = draw(programs, self.gradient, freeze_model=True)
        return drawn, surrogate(self, drawn, self.gradient)

    def value(self, log_w: Tensor) -> Tensor:
        """Return the estimate of the bound of order n, [N]."""
        return bounds.cubo(log_w, self.n)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $n (1 - s_k)$, s the softmax of $n \log w$, [K, N]."""
        return self.n * (1 - bounds.normalized_weights(self.n * log_w))
