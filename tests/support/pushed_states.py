"""Linear states pushed by a latent chain that is linear, too, so that Kalman's is the truth.

z_t ~ N(KEPT z_{t-1}, MOVES), u_t ~ N(A u_{t-1} + PUSH z_t, Q), x_t ~ N(C u_t, R), with the
matrices of `state_space`. In one program u is integrated out given z, in the other it is sampled.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from state_space import A, C, Q, R
from torch import Tensor
from torch.nn.functional import pad

from pyrovae.distributions import EachStep, LinearStates, LinearStep, MarkovChain

KEPT, MOVES = 0.7, 0.8
PUSH = torch.tensor([1.2, -0.5], dtype=torch.float64)


def step_of_z(before: Tensor, inputs: Tensor | None = None) -> dist.Distribution:
    return dist.Normal(KEPT * before, MOVES).to_event(1)


def pushed(z: Tensor) -> LinearStep:
    return LinearStep(A, z * PUSH, Q, C, torch.zeros(3).to(z), torch.full((3,), R, dtype=z.dtype))


def integrated(x: Tensor | None, mask: Tensor) -> Tensor:
    """The states are integrated out."""
    with pyro.plate("data", len(mask)):
        z = pyro.sample("z", MarkovChain(step_of_z, torch.zeros(1).to(A), mask))
        states = LinearStates(pushed, z, mask, first=torch.zeros(2).to(A))
        return pyro.sample("x", states, obs=x)


def bootstrap(x: Tensor, mask: Tensor) -> Tensor:
    with pyro.plate("data", len(mask)):
        return pyro.sample("z", MarkovChain(step_of_z, torch.zeros(1).to(A), mask))


def step_of_both(before: Tensor, inputs: Tensor | None = None) -> dist.Distribution:
    z, u = before[..., :1], before[..., 1:]
    mean = torch.cat([KEPT * z, u @ A.T + KEPT * z * PUSH], -1)
    root = torch.zeros(3, 3).to(A)
    root[0, 0], root[1:, 0], root[1:, 1:] = MOVES, MOVES * PUSH, Q.diag()
    return dist.MultivariateNormal(mean, scale_tril=root)


def sampled(x: Tensor | None, mask: Tensor) -> Tensor:
    """The states are latents, as z is."""
    with pyro.plate("data", len(mask)):
        both = pyro.sample("z", MarkovChain(step_of_both, torch.zeros(3).to(A), mask))
        seen = EachStep(lambda s: dist.Normal(s[..., 1:] @ C.T, R).to_event(1), both, mask)
        return pyro.sample("x", seen, obs=x)


def bootstrap_of_both(x: Tensor, mask: Tensor) -> Tensor:
    with pyro.plate("data", len(mask)):
        return pyro.sample("z", MarkovChain(step_of_both, torch.zeros(3).to(A), mask))


def evidence(x: Tensor) -> Tensor:
    """Return log p(x) of x [T, 3] by Kalman's filter for (z, u)."""
    move = torch.zeros(3, 3).to(A)
    move[0, 0], move[1:, 0], move[1:, 1:] = KEPT, KEPT * PUSH, A
    root = step_of_both(torch.zeros(3).to(A)).scale_tril
    see, noise = pad(C, (1, 0)), R**2 * torch.eye(3).to(A)
    mean, spread, found = torch.zeros(3).to(A), torch.zeros(3, 3).to(A), x.new_zeros(())
    for each in x:
        mean, spread = move @ mean, move @ spread @ move.T + root @ root.T
        of_x = see @ spread @ see.T + noise
        found = found + dist.MultivariateNormal(see @ mean, of_x).log_prob(each)
        gain = spread @ see.T @ of_x.inverse()
        mean, spread = mean + gain @ (each - see @ mean), spread - gain @ see @ spread
    return found
