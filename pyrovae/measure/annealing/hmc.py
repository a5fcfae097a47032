r"""Hamiltonian Monte Carlo transitions of many chains at once, each with its own step size.

    u' = u + e s v',   v' = v + e s grad log pi(u)        v ~ N(0, I)

A transition leaves pi_beta = f_0^(1 - beta) f_1^beta invariant for any step size e of a chain and
any scale s of a dimension, provided that neither depends on the chain's own past. They are
therefore adapted on separate chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pyrovae.measure.annealing.path import Point

__all__ = ["Gradient", "StepSizes", "transition"]

Gradient = Callable[[Tensor, Tensor], tuple[Point, Tensor]]
"""A function of u and beta that returns the point and the gradient of log pi_beta there."""

ACCEPTANCE: Final = 0.65
"""The optimal acceptance rate of HMC in high dimensions (Beskos et al., 2013)."""

ADAPTATION_RATE: Final = 0.1
"""The rate of adaptation of step sizes and variances in a transition. The value is ours."""

JITTER: Final = 0.25
"""The relative width of the random factor on each step size. The value is ours."""


@dataclass(frozen=True)
class StepSizes:
    """The step sizes of the chains and the scales of the dimensions.

    Attributes:
        step_size: the step size e of each chain, [K, N].
        variance: the variance s^2 of each dimension over the chains of a datum, [N, D].
    """

    step_size: Tensor
    variance: Tensor

    @classmethod
    def initial(cls, u: Tensor) -> StepSizes:
        """Return initial step sizes of 0.5 and the variances of chains at u, [K, N, D]."""
        return cls(torch.full_like(u[..., 0], 0.5), _variance(u))

    def steps(self) -> Tensor:
        """Draw the step e s of each chain in each dimension, [K, N, D].

        A random factor between 0.75 and 1.25 keeps trajectories from being periodic.
        """
        jitter = 1 + JITTER * (2 * torch.rand_like(self.step_size) - 1)
        return (self.step_size * jitter).unsqueeze(-1) * self.variance.sqrt()

    def adapted(self, u: Tensor, acceptance: Tensor) -> StepSizes:
        """Return step sizes adapted to acceptance rates [K, N] and to the chains' variances."""
        step_size = self.step_size * (ADAPTATION_RATE * (acceptance - ACCEPTANCE)).exp()
        return StepSizes(step_size, self.variance.lerp(_variance(u), ADAPTATION_RATE))


def transition(
    gradient: Gradient, point: Point, beta: Tensor, *, step_sizes: StepSizes, leapfrogs: int
) -> tuple[Point, Tensor]:
    """Move every chain by one Hamiltonian transition.

    Args:
        gradient: the gradient of the path's log-density.
        point: the state of the chains.
        beta: the position on the path, between 0 and 1.
        step_sizes: the step sizes and scales.
        leapfrogs: the number of leapfrog steps in a trajectory.

    Returns:
        The new state, and the acceptance probability of each proposal, [K, N].

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987. Hybrid Monte Carlo.
        Neal, 2011. MCMC Using Hamiltonian Dynamics.
    """
    step = step_sizes.steps()
    start, slope = gradient(point.u, beta)
    momentum = torch.randn_like(point.u)
    energy = start.tempered(beta) - 0.5 * momentum.square().sum(-1)
    u = point.u
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step * slope
        u = u + step * momentum
        end, slope = gradient(u, beta)
        momentum = momentum + 0.5 * step * slope
    change = end.tempered(beta) - 0.5 * momentum.square().sum(-1) - energy
    acceptance = change.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp()
    return end.where(torch.rand_like(acceptance) < acceptance, start), acceptance


def _variance(u: Tensor) -> Tensor:
    """Return the variance over chains [N, D]; 1 for a single chain, which has none."""
    return u.var(0).clamp(min=1e-12) if len(u) > 1 else torch.ones_like(u[0])
