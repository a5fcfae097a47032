r"""Flows of an ordinary differential equation, with the exact divergence of their velocity.

    du/dt = v(u, t),   u(0) ~ N(0, I),   z = loc + scale * u(1)

    log p(z) = log N(u(0); 0, I) - int_0^1 div v(u(t), t) dt - sum log scale

The integral is of the classical Runge-Kutta method with a fixed number of steps n. Its error falls
with the fourth power of 1 / n; `ODEFlow.integration_error` estimates it from n and n / 2 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

__all__ = ["ODEFlow", "Velocity", "VelocityField", "matching_loss"]

Velocity = Callable[[Tensor, float | Tensor], tuple[Tensor, Tensor]]
"""A function of u [..., D] and the time t in [0, 1] that returns v [..., D] and div v [...]."""


class ODEFlow(dist.TorchDistribution):
    r"""The distribution of z = loc + scale u(1), where u follows an ODE from a standard normal.

    Args:
        velocity: v(u, t) and its divergence.
        loc: [D].
        scale: [D], positive.
        steps: n, the steps of the integration, even.
        batch_shape: that of the distribution.

    Raises:
        ValueError: if the number of steps is odd or below 2.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud, 2018. Neural Ordinary Differential Equations.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import ODEFlow
        >>> def shift(u, t):  # every point moves by 2 in the time 1
        ...     return torch.full_like(u, 2.0), torch.zeros(u.shape[:-1])
        >>> flow = ODEFlow(shift, torch.zeros(1), torch.ones(1), steps=2)
        >>> flow.log_prob(torch.tensor([[2.0]]))
        tensor([-0.9189])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        velocity: Velocity,
        loc: Tensor,
        scale: Tensor,
        *,
        steps: int,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> None:
        if steps < 2 or steps % 2:
            raise ValueError(
                f"an ODE is integrated in an even number of steps, 2 or more, so that half of "
                f"them can tell the error; got steps={steps}"
            )
        self.velocity, self.loc, self.scale, self.steps = velocity, loc, scale, steps
        super().__init__(batch_shape, loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ODEFlow:
        """Return the same flow with another batch shape."""
        shape = torch.Size(batch_shape)
        return ODEFlow(self.velocity, self.loc, self.scale, steps=self.steps, batch_shape=shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw z by integration from 0 to 1, [*sample_shape, *batch_shape, D]."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.loc.dtype,
            device=self.loc.device,
        )
        u, _ = self._integrated(noise, (0.0, 1.0), self.steps)
        return self.loc + self.scale * u

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z) by integration from 1 to 0, [...]."""
        return self._log_prob(value, self.steps)

    @torch.no_grad()
    def integration_error(self, value: Tensor) -> Tensor:
        r"""Return $|\log p_n(z) - \log p_{n/2}(z)|$, the change with half the steps, [...].

        The error of n steps is about a fifteenth of it, as soon as it is small: the method is of
        fourth order.
        """
        return (self.log_prob(value) - self._log_prob(value, self.steps // 2)).abs()

    def _log_prob(self, value: Tensor, steps: int) -> Tensor:
        start, divergence = self._integrated((value - self.loc) / self.scale, (1.0, 0.0), steps)
        normal = -0.5 * (start.square() + math.log(2 * math.pi)).sum(-1)
        found: Tensor = normal + divergence - self.scale.log().sum()
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def _integrated(
        self, u: Tensor, times: tuple[float, float], steps: int
    ) -> tuple[Tensor, Tensor]:
        """Return u and the integral of the divergence at the end of the times."""
        h, total = (times[1] - times[0]) / steps, u.new_zeros(u.shape[:-1])
        for i in range(steps):
            t = times[0] + i * h
            v_1, d_1 = self.velocity(u, t)
            v_2, d_2 = self.velocity(u + h / 2 * v_1, t + h / 2)
            v_3, d_3 = self.velocity(u + h / 2 * v_2, t + h / 2)
            v_4, d_4 = self.velocity(u + h * v_3, t + h)
            u = u + h / 6 * (v_1 + 2 * v_2 + 2 * v_3 + v_4)
            total = total + h / 6 * (d_1 + 2 * d_2 + 2 * d_3 + d_4)
        return u, total


class VelocityField(nn.Module):
    r"""A network v(u, t) with two hidden layers, and its divergence without automatic derivatives.

    $$ v = W_3 \tanh(W_2 \tanh(W_1 u + c(t)) + b_2) + b_3,\qquad
       \mathrm{div}\, v = s_2^\top (W_2 \odot (W_1 W_3)^\top) s_1 $$

    where $s_i = 1 - h_i^2$ are the slopes of the hidden layers. The trace of the Jacobian is exact
    and costs one product of matrices, for any D. v is bounded, so that far from the origin points
    move alike, and the flow keeps the tails of the normal.

    Args:
        latents: D.
        hidden: the width of the hidden layers.

    Raises:
        ValueError: if a width is below 1.
    """

    def __init__(self, latents: int, hidden: int) -> None:
        super().__init__()
        if min(latents, hidden) < 1:
            raise ValueError(
                f"a velocity field needs widths of 1 or more; got latents={latents}, "
                f"hidden={hidden}"
            )
        self.inside = nn.Linear(latents, hidden, bias=False)
        self.time = nn.Linear(2, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.outside = nn.Linear(hidden, latents)

    def velocity(self) -> Velocity:
        """Return v(u, t) with its divergence, for the present weights."""
        within: Tensor = self.middle.weight * (self.inside.weight @ self.outside.weight).T

        def at(u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
            first, second = self._hidden(u, t)
            slopes = nn.functional.linear(1 - first.square(), within)
            return self.outside(second), ((1 - second.square()) * slopes).sum(-1)

        return at

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """Return v for u [..., D] and t [...]."""
        found: Tensor = self.outside(self._hidden(u, t)[1])
        return found

    def _hidden(self, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        first = (self.inside(u) + self._clock(t)).tanh()
        return first, self.middle(first).tanh()

    def _clock(self, t: float | Tensor) -> Tensor:
        """Return c(t), linear in the cosine and the sine that mix noise and draws."""
        cos, sin = self.time.weight.unbind(1)
        if isinstance(t, Tensor):
            angle = (math.pi / 2) * t.unsqueeze(-1)
            return angle.cos() * cos + angle.sin() * sin + self.time.bias
        turn = (math.pi / 2) * t
        return math.cos(turn) * cos + math.sin(turn) * sin + self.time.bias


def matching_loss(field: Callable[[Tensor, Tensor], Tensor], u: Tensor) -> Tensor:
    r"""Return the flow-matching loss of a velocity field at draws u of a distribution, [N].

    $$ \| v(u_t, t) - \dot u_t \|^2,\qquad
       u_t = \cos(\tfrac\pi2 t)\, e + \sin(\tfrac\pi2 t)\, u $$

    with $e \sim N(0, I)$ and $t \sim U(0, 1)$.

    Its mean over u has its minimum at the velocity whose ODE carries a standard normal to the
    distribution of u: the probability-flow ODE of the variance-preserving diffusion. If u is
    standard normal, that velocity is zero.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le, 2023. Flow Matching for Generative Modeling.
        Albergo, Vanden-Eijnden, 2023. Building Normalizing Flows with Stochastic Interpolants.
        Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, 2021. Score-Based Generative Modeling
        through Stochastic Differential Equations.

    Example:
        >>> import torch
        >>> matching_loss(VelocityField(2, 8), torch.randn(5, 2)).shape
        torch.Size([5])
    """
    t = torch.rand(len(u), dtype=u.dtype, device=u.device)
    noise, angle = torch.randn_like(u), (math.pi / 2) * t[:, None]
    along = angle.cos() * noise + angle.sin() * u
    speed = (math.pi / 2) * (angle.cos() * u - angle.sin() * noise)
    return (field(along, t) - speed).square().sum(-1)
