"""Objectives whose model and guide follow gradients of their own, or the guide alone."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pyrovae.objectives.base import Objective, product_of
from pyrovae.objectives.gradients import (
    Bound,
    Draw,
    Gradient,
    Programs,
    check_no_factor,
    check_nothing_enumerated,
    detached,
    draw,
    surrogate,
)
from pyrovae.objectives.lower_bounds import MIWAE
from pyrovae.weights import bounds
from pyrovae.weights.log_joint import guide_sites, log_density
from pyrovae.weights.sites import log_prob, objective_sites

__all__ = ["CUBO", "PIWAE", "ReweightedWakeSleep"]


@final
class CUBO(Objective, Bound):
    r"""Lower the chi upper bound, $\frac1n \log \frac1k \sum_i w_i^n$, over the guide alone.

    The exact $CUBO_n = \frac1n \log E_q[w^n]$ lies above $\log p(x)$. Its estimate from k
    particles is biased low, often by far, and may fall under $\log p(x)$. An upper bound that is
    lowered says nothing about the model, so the model gets no gradient.

    Args:
        n: the order, 1 or more.
        k: particles.
        gradient: "plain", "stl" or "dreg".

    Raises:
        ValueError: if n is below 1.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei, 2017. Variational Inference via chi Upper Bound
        Minimization.

    Example:
        >>> import torch
        >>> CUBO(2, 2).value(torch.tensor([[0.0], [-2.0]]))
        tensor([-0.3375])
        >>> print(CUBO(2, 50))
        minus CUBO, 50 particles (estimates an upper bound, biased low: it may fall under log p(x))
    """

    raises = "minus "
    warning = " (estimates an upper bound, biased low: it may fall under log p(x))"

    def __init__(self, n: float, k: int, gradient: Gradient = "plain") -> None:
        bounds.check_order(n)
        super().__init__(k, gradient)
        self.n = n

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the estimate for each datum."""
        drawn = draw(programs, self.gradient, freeze_model=True)
        return drawn, surrogate(self, drawn, self.gradient)

    def value(self, log_w: Tensor) -> Tensor:
        """Return the estimate of the bound of order n."""
        return bounds.cubo(log_w, self.n)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Return $n (1 - s_k)$, s the softmax of $n \log w$."""
        return self.n * (1 - bounds.normalized_weights(self.n * log_w))


@final
class PIWAE(Objective):
    r"""Raise IWAE with all m k particles over the model, and MIWAE(m, k) over the guide.

    The model gets the tighter bound, the guide the gradient with the stronger signal. The value
    is the model's bound.

    Args:
        m: bounds that are averaged for the guide.
        k: particles in each.
        gradient: the guide's: "plain", "stl" or "dreg".

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> PIWAE(8, 8, gradient="dreg").num_particles
        64
    """

    def __init__(self, m: int, k: int, gradient: Gradient = "plain") -> None:
        super().__init__(product_of(m, k), gradient)
        self.of_guide = MIWAE(m, k, gradient)

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the negative bound of each datum, with a gradient of its own for each program."""
        drawn = draw(programs, self.gradient, freeze_model=True)
        of_guide = surrogate(self.of_guide, drawn, self.gradient)
        return drawn, -_bound_of_model(programs, drawn) - _gradient_alone(of_guide)


@final
class ReweightedWakeSleep(Objective):
    r"""Raise IWAE over the model; fit the guide to the weighted draws (wake phase, wake update).

    The model's gradient is that of IWAE at fixed draws; the guide lowers
    $-\sum_i \bar w_i \log q(z_i | x)$, at weights $\bar w$ normalized for each datum, which
    approaches $KL(p(z | x) \| q(z | x))$ as k grows. No site needs to be reparameterized, unless
    with "dreg". The value is the IWAE bound at k.

    Args:
        k: particles, two or more: the weight of a single one is 1 whatever it is.
        gradient: the guide's: "plain", or "dreg" (the same expectation through the draws).

    Raises:
        ValueError: if k is below 2, or for "stl", which says nothing here.

    References:
        Bornschein, Bengio, 2015. Reweighted Wake-Sleep.
        Le, Kosiorek, Siddharth, Teh, Wood, 2019. Revisiting Reweighted Wake-Sleep.

    Example:
        >>> ReweightedWakeSleep(10).num_particles
        10
    """

    def __init__(self, k: int, gradient: Gradient = "plain") -> None:
        if gradient == "stl":
            raise ValueError("ReweightedWakeSleep takes gradient='plain' or 'dreg'; got 'stl'")
        if k < 2:
            raise ValueError(f"ReweightedWakeSleep compares two or more particles; got k = {k}")
        super().__init__(k, gradient)

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the negative bound of each datum, with a gradient of its own for each program."""
        if self.gradient == "dreg":
            drawn = draw(programs, "dreg", freeze_model=True)
            weights = bounds.normalized_weights(drawn.log_w).detach()
            raised = (weights * (1 - weights) * drawn.log_w).sum(0)
        else:
            with torch.no_grad():
                drawn = draw(programs, "plain")
            check_nothing_enumerated(drawn.guide_trace)
            weights = bounds.normalized_weights(drawn.log_w)
            again = programs.trace_guide(drawn.guide_trace)
            raised = (weights * sum(log_prob(site) for _, site in guide_sites(again))).sum(0)
        return drawn, -_bound_of_model(programs, drawn) - _gradient_alone(raised)


def _bound_of_model(programs: Programs, drawn: Draw) -> Tensor:
    """Return IWAE over all particles, [N], with the gradient of the model alone."""
    fixed = detached(drawn.guide_trace)
    model_trace = programs.trace_model(fixed)
    check_no_factor(model_trace)
    log_p = log_density(objective_sites(model_trace), drawn.layout)
    log_q = log_density(guide_sites(fixed), drawn.layout).detach()
    return bounds.iwae(drawn.layout.summed_out(log_p - log_q))


def _gradient_alone(surrogate: Tensor) -> Tensor:
    return surrogate - surrogate.detach()
