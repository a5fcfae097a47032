"""Reweighted wake-sleep: IWAE for the model, the inclusive KL divergence for the guide."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pyrovae.objectives.base import Objective
from pyrovae.objectives.gradients import (
    Draw,
    Gradient,
    Programs,
    check_nothing_enumerated,
    check_random,
    draw,
    gradient_only,
    model_bound,
)
from pyrovae.weights import bounds
from pyrovae.weights.auxiliary import check_fixed_transform
from pyrovae.weights.log_joint import guide_sites
from pyrovae.weights.sites import log_prob

__all__ = ["ReweightedWakeSleep"]


@final
class ReweightedWakeSleep(Objective):
    r"""Maximize IWAE over the model, and fit the guide to the reweighted particles.

    The model's gradient is that of IWAE at fixed particles. The guide minimizes (the wake-phase
    update)

    $$ -\sum_i \bar w_i \log q(z_i | x) $$

    with weights $\bar w$ normalized for each datum. Its expectation approaches
    $KL(p(z | x) \| q(z | x))$, up to a constant, as K grows. Sites need not be reparameterized,
    except with "dreg". The value is the IWAE bound with K particles.

    Args:
        particles: the number K of particles, at least 2: a single weight is normalized to 1.
        gradient: the guide's estimator, "plain" or "dreg" (the same expectation, through the
            samples).

    Raises:
        ValueError: if `particles` is below 2, or the gradient is "stl". When the programs run: if
            a map of auxiliary sites to the latents has parameters, and as `log_weights`.

    References:
        Bornschein, Bengio, 2015. Reweighted Wake-Sleep.
        Le, Kosiorek, Siddharth, Teh, Wood, 2019. Revisiting Reweighted Wake-Sleep.

    Example:
        >>> from pyrovae.objectives import ReweightedWakeSleep
        >>> ReweightedWakeSleep(10).num_particles
        10
    """

    def __init__(self, particles: int, *, gradient: Gradient = "plain") -> None:
        if gradient == "stl":
            raise ValueError("ReweightedWakeSleep takes gradient='plain' or 'dreg'; got 'stl'")
        if particles < 2:
            raise ValueError(
                f"ReweightedWakeSleep needs at least two particles; got particles={particles}"
            )
        super().__init__(particles, gradient)

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the particles and the loss of each datum, [N]; each program has its own."""
        if self.gradient == "dreg":
            drawn = draw(programs, "dreg", freeze_model=True)
            weights = bounds.normalized_weights(drawn.log_w).detach()
            raised = (weights * (1 - weights) * drawn.log_w).sum(0)
        else:
            with torch.no_grad():
                drawn = draw(programs, "plain")
            check_nothing_enumerated(drawn.guide_trace)
            check_random(drawn.guide_trace)
            check_fixed_transform(drawn.guide_trace, programs.trace_guide, points=False)
            weights = bounds.normalized_weights(drawn.log_w)
            again = programs.trace_guide(drawn.guide_trace)
            raised = (weights * sum(log_prob(site) for _, site in guide_sites(again))).sum(0)
        return drawn, -model_bound(programs, drawn) - gradient_only(raised)
