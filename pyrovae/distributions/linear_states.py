r"""Linear-Gaussian states that are integrated out, given latents that are not.

$$ u_t = A_t u_{t-1} + b_t + q_t \epsilon_t, \quad x_t = C_t u_t + d_t + r_t \eta_t $$

All of A_t to r_t are functions of z_t. Given z_1:T, Kalman's recursion gives p(x_1:T) exactly. It
runs here on a square root of the covariance of u, by orthogonal transformations: no difference of
covariances is taken, so that float32 is enough and no covariance ceases to be positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.markov import ObservedSteps, at_step, together
from pyrovae.weights.filtering import Belief

__all__ = ["LinearStates", "LinearStep"]


class LinearStep(NamedTuple):
    """The parameters of steps of a linear-Gaussian state space, [..., *event].

    Attributes:
        transition: A, [..., U, U].
        drift: b, [..., U].
        drift_scale: q, standard deviations [..., U].
        emission: C, [..., X, U].
        offset: d, [..., X].
        scale: r, standard deviations [..., X].
    """

    transition: Tensor
    drift: Tensor
    drift_scale: Tensor
    emission: Tensor
    offset: Tensor
    scale: Tensor

    @staticmethod
    def shapes(states: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return the event shapes for U states and x of width X.

        Example:
            >>> from pyrovae.distributions import LinearStep
            >>> LinearStep.shapes(2, 5)["emission"]
            (5, 2)
        """
        return {
            "transition": (states, states),
            "drift": (states,),
            "drift_scale": (states,),
            "emission": (width, states),
            "offset": (width,),
            "scale": (width,),
        }


class LinearStates(ObservedSteps):
    r"""Sequences x [T, X] of linear-Gaussian states, which are integrated out.

    $$ \log p(x_{1:T} | z_{1:T}) = \sum_t m_t \log p(x_t | z_{1:t}, x_{<t}) $$

    Each term is normal, by Kalman's filter, with u_0 known. Padding must come after the last step
    of a sequence. A particle filter (`pyrovae.ParticleFilter`, `objectives.FIVO`) carries the
    mean and covariance of u with each of its particles.

    Args:
        dynamics: maps z_t [..., D], and c_t [..., C] if there are inputs, to a `LinearStep`,
            whose tensors broadcast with the leading axes.
        z: [..., T, D].
        mask: booleans [..., T], True where there is a step.
        first: u_0, [U].
        inputs: c, [..., T, C], or [..., 1, C] for all steps; None if the dynamics have none.

    Attributes:
        start: the belief before the first step: the mean of u, u_0, and a square root of its
            covariance, zero.

    Raises:
        ValueError: if the parameters of a step do not fit together.

    References:
        Kalman, 1960. A New Approach to Linear Filtering and Prediction Problems.
        Kailath, Sayed, Hassibi, 2000. Linear Estimation (chapter 12, arrays).
        Doucet, de Freitas, Murphy, Russell, 2000. Rao-Blackwellised Particle Filtering for Dynamic
            Bayesian Networks.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import LinearStates, LinearStep
        >>> def turning(z):  # z turns the state, of which the first entry is seen
        ...     turn = torch.stack([z.cos(), -z.sin(), z.sin(), z.cos()], -1).unflatten(-1, (2, 2))
        ...     seen, zero = torch.eye(2)[:1], torch.zeros(2)
        ...     return LinearStep(
        ...         turn.squeeze(-3), zero, zero + 0.1, seen, zero[:1], zero[:1] + 0.1
        ...     )
        >>> z, mask = torch.ones(5, 7, 1), torch.ones(5, 7, dtype=torch.bool)
        >>> x = LinearStates(turning, z, mask, first=torch.tensor([1.0, 0.0]))
        >>> x.log_prob(x.sample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        dynamics: Callable[..., LinearStep],
        z: Tensor,
        mask: Tensor,
        *,
        first: Tensor,
        inputs: Tensor | None = None,
    ) -> None:
        self.dynamics, self.z, self.mask, self.inputs = dynamics, z, mask, inputs
        self.start: Belief = (first, first.new_zeros(len(first), len(first)))
        self.steps = _expanded(dynamics(*together(z, inputs)), len(first), z.shape[:-1])
        lead = torch.broadcast_shapes(self.steps.drift.shape[:-1], mask.shape)
        event = torch.Size((lead[-1], self.steps.offset.shape[-1]))
        super().__init__(torch.Size(lead[:-1]), event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers."""
        return constraints.independent(constraints.real, 2)

    @property
    def mean(self) -> Tensor:
        """The mean of each step given z, [..., T, X]."""
        u, found = self.start[0], []
        for t in range(self.event_shape[0]):
            step = _at(self.steps, t)
            u = _times(step.transition, u) + step.drift
            found.append(_times(step.emission, u) + step.offset)
        return torch.stack(found, -2).expand(*self.batch_shape, *self.event_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw every step, also those of padding, [*sample_shape, *batch_shape, T, X]."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            u, found = self.start[0].expand(*shape, -1), []
            for t in range(self.event_shape[0]):
                step = _at(self.steps, t)
                u = _times(step.transition, u) + step.drift
                u = u + step.drift_scale * torch.randn_like(u)
                x = (_times(step.emission, u) + step.offset).expand(*shape, -1)
                found.append(x + step.scale * torch.randn_like(x))
        return torch.stack(found, -2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x | z) of the steps that count, [...], in nats."""
        belief, scores = self.start, []
        for t in range(self.event_shape[0]):
            step = _at(self.steps, t)
            score, belief = _updated(step, _predicted(step, belief), value[..., t, :])
            scores.append(score)
        return torch.where(self.mask, torch.stack(scores, -1), 0.0).sum(-1)

    def step(self, t: int | Tensor, z: Tensor) -> LinearStep:
        """Return the parameters of step t, one or each, [N], for z_t [..., D]."""
        inputs = None if self.inputs is None else at_step(self.inputs, t)
        return _expanded(self.dynamics(*together(z, inputs)), len(self.start[0]), z.shape[:-1])

    def score_step(
        self, t: int | Tensor, z: Tensor, x: Tensor, belief: Belief
    ) -> tuple[Tensor, Belief]:
        """Return log p(x_t | z_1:t, x_<t) for z_t [..., D], and the belief after x_t."""
        step = self.step(t, z)
        return _updated(step, _predicted(step, belief), x)

    def draw_step(self, t: int | Tensor, z: Tensor, belief: Belief) -> tuple[Tensor, Belief]:
        """Draw x_t given z_t [..., D] and the belief, and return it with the belief after it."""
        step = self.step(t, z)
        mean, root = _predicted(step, belief)
        u = mean + _times(root, torch.randn_like(mean))
        of_u = _times(step.emission, u) + step.offset
        x = of_u + step.scale * torch.randn_like(of_u)
        return x, _updated(step, (mean, root), x)[1]


def _expanded(step: LinearStep, states: int, lead: torch.Size) -> LinearStep:
    """Return the parameters with the same leading axes, those of z at least.

    Raises:
        ValueError: if one has not the shape that the others ask for.
    """
    width = step.offset.shape[-1] if step.offset.ndim else 0
    shapes = LinearStep.shapes(states, width)
    for (name, event), met in zip(shapes.items(), step, strict=True):
        if 0 in event or met.shape[met.ndim - len(event) :] != event:
            raise ValueError(
                f"LinearStates has {states} states (the width of `first`) and, by the offset, x "
                f"of width {width}: {name} needs the shape [..., {', '.join(map(str, event))}]; "
                f"got {tuple(met.shape)}"
            )
    axes = [len(event) for event in shapes.values()]
    leads = (met.shape[: met.ndim - n] for met, n in zip(step, axes, strict=True))
    lead = torch.broadcast_shapes(lead, *leads)
    both = zip(step, shapes.values(), strict=True)
    return LinearStep(*(met.expand(*lead, *event) for met, event in both))


def _at(steps: LinearStep, t: int) -> LinearStep:
    """Return step t of parameters [..., T, *event]."""
    axes = (len(event) for event in LinearStep.shapes(1, 1).values())
    return LinearStep(*(met.select(-1 - n, t) for met, n in zip(steps, axes, strict=True)))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _one(root: Tensor) -> Tensor:
    return torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)


def _predicted(step: LinearStep, belief: Belief) -> Belief:
    """Return the mean of u_t and a root of its covariance, A F F' A' + q^2, given x_<t."""
    mean, root = belief
    moved, one = step.transition @ root, _one(root)
    # The transposed factor R of [A F, q]' = Q R is a square root of A F F' A' + q^2.
    stacked = torch.cat([moved.mT, one * step.drift_scale.unsqueeze(-1)], -2)
    return _times(step.transition, mean) + step.drift, torch.linalg.qr(stacked).R.mT


def _updated(step: LinearStep, belief: Belief, x: Tensor) -> tuple[Tensor, Belief]:
    """Return log p(x_t | x_<t), and the belief given x_t.

    With u = m + F w, w is standard normal before x_t, whose whitened residual is e - G w for
    G = C F / r. The posterior mean of w is the solution of the least squares of [G; I] w against
    [e; 0], and -2 log p has their sum of squares, which is at its minimum: an error of w counts in
    the second order only.
    """
    mean, root = belief
    if x.shape[-1] != step.offset.shape[-1]:
        raise ValueError(
            f"LinearStates expected x of width {step.offset.shape[-1]}; got {tuple(x.shape)}"
        )
    residual = (x - _times(step.emission, mean) - step.offset) / step.scale
    gain = step.emission @ root / step.scale.unsqueeze(-1)
    one = _one(root)
    q, r = torch.linalg.qr(torch.cat([gain, one.expand_as(root)], -2))
    solved = _times(q[..., : x.shape[-1], :].mT, residual).unsqueeze(-1)
    w = torch.linalg.solve_triangular(r, solved, upper=True).squeeze(-1)
    squares = (residual - _times(gain, w)).square().sum(-1) + w.square().sum(-1)
    log_det = step.scale.log().sum(-1) + (r * one).sum(-1).abs().log().sum(-1)
    score = -0.5 * (squares + x.shape[-1] * math.log(2 * math.pi)) - log_det
    after = torch.linalg.solve_triangular(r, root, upper=True, left=False)
    return score, (mean + _times(root, w), after)
