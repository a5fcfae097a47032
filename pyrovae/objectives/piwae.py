"""An objective with a tighter bound for the model than for the guide."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pyrovae.objectives.base import Objective
from pyrovae.objectives.gradients import (
    Draw,
    Gradient,
    Programs,
    draw,
    gradient_only,
    model_bound,
    surrogate,
)
from pyrovae.objectives.lower_bounds import MIWAE

__all__ = ["PIWAE"]


@final
class PIWAE(Objective):
    r"""Maximize IWAE with K particles over the model, and MIWAE in groups of k over the guide.

    The model gets the tighter bound, the guide a gradient with a higher signal-to-noise ratio.
    The value is the model's bound.

    Args:
        particles: the number K of particles.
        k: particles per group of the guide's bound, a divisor of K.
        gradient: the guide's estimator, "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: as `MIWAE`.

    References:
        Rainforth et al., 2018. Tighter Variational Bounds are Not Necessarily Better.

    Example:
        >>> from pyrovae.objectives import PIWAE
        >>> PIWAE(64, k=8, gradient="dreg").num_particles
        64
    """

    def __init__(self, particles: int, *, k: int, gradient: Gradient = "plain") -> None:
        self.of_guide = MIWAE(particles, k=k, gradient=gradient)
        super().__init__(particles, gradient)

    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the particles and the loss of each datum, [N]; each program has its own bound."""
        drawn = draw(programs, self.gradient, freeze_model=True)
        of_guide = surrogate(self.of_guide, drawn, self.gradient)
        return drawn, -model_bound(programs, drawn) - gradient_only(of_guide)
