r"""Hamiltonian transitions of many chains at once, each with its own step size.

    u' = u + e s v',   v' = v + e s grad log pi(u)        v ~ N(0, I)

A transition leaves pi_beta = f_0^(1 - beta) f_1^beta invariant whatever the step size e of a chain
and the scale s of a dimension, so long as they do not depend on where the chain itself has been:
they are adapted on other chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pyrovae.measure.annealing.path import Point

Slope = Callable[[Tensor, Tensor], tuple[Point, Tensor]]
"""A function of u and beta that returns the point and the gradient of log pi_beta there."""

ACCEPTANCE: Final = 0.65
"""The rate at which a Hamiltonian chain in many dimensions moves best (Beskos et al., 2013)."""

GAIN: Final = 0.1
JITTER: Final = 0.25


@dataclass(frozen=True)
class Pace:
    """How far the chains step.

    Attributes:
        step_size: of each chain, [K, N].
        variance: of each dimension over the chains of a datum, [N, D].
    """

    step_size: Tensor
    variance: Tensor

    @classmethod
    def at(cls, u: Tensor) -> Pace:
        """Return a first guess for chains at u, [K, N, D]."""
        return cls(torch.full_like(u[..., 0], 0.5), _spread(u))

    def steps(self) -> Tensor:
        """Draw the step of each chain in each dimension, [K, N, D].

        It is the step size times a number between 0.75 and 1.25, lest trajectories close a period.
        """
        jitter = 1 + JITTER * (2 * torch.rand_like(self.step_size) - 1)
        return (self.step_size * jitter).unsqueeze(-1) * self.variance.sqrt()

    def adapted(self, u: Tensor, acceptance: Tensor) -> Pace:
        """Lengthen the steps of chains that are accepted often, and follow the chains' spread."""
        step_size = self.step_size * (GAIN * (acceptance - ACCEPTANCE)).exp()
        return Pace(step_size, self.variance.lerp(_spread(u), GAIN))


def transition(
    slope: Slope, point: Point, beta: Tensor, *, pace: Pace, leapfrogs: int
) -> tuple[Point, Tensor]:
    """Move every chain once.

    Args:
        slope: of the path.
        point: where the chains are.
        beta: where on the path.
        pace: how far they step.
        leapfrogs: how many steps a trajectory has.

    Returns:
        Where they are then, and the probability with which each was to move, [K, N].

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987. Hybrid Monte Carlo.
        Neal, 2011. MCMC Using Hamiltonian Dynamics.
    """
    step = pace.steps()
    start, gradient = slope(point.u, beta)
    momentum = torch.randn_like(point.u)
    energy = start.tempered(beta) - 0.5 * momentum.square().sum(-1)
    u = point.u
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step * gradient
        u = u + step * momentum
        end, gradient = slope(u, beta)
        momentum = momentum + 0.5 * step * gradient
    change = end.tempered(beta) - 0.5 * momentum.square().sum(-1) - energy
    acceptance = change.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp()
    return end.where(torch.rand_like(acceptance) < acceptance, start), acceptance


def _spread(u: Tensor) -> Tensor:
    """Return the variance over chains; that of one chain is not known, and taken to be 1."""
    return u.var(0).clamp(min=1e-12) if len(u) > 1 else torch.ones_like(u[0])
