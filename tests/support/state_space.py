"""A linear-Gaussian state space, whose evidence is Kalman's and whose smoother is exact.

z_t ~ N(A z_{t-1}, Q), x_t ~ N(C z_t, R), z_0 = 0. The truth is computed here, step by step, by
matrices; nothing of it is the library's. With controls c, of each step, z_t ~ N(A z_{t-1} + B c_t,
Q), x_t ~ N(C z_t + D c_t, R): less the response to the controls, z and x are as without them.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions import EachStep, MarkovChain

A = torch.tensor([[0.8, 0.3], [-0.2, 0.7]], dtype=torch.float64)
Q = torch.tensor([0.5, 0.7], dtype=torch.float64)
C = torch.tensor([[1.0, 0.2], [-0.4, 0.9], [0.3, -1.1]], dtype=torch.float64)
B = torch.tensor([[0.9], [-0.6]], dtype=torch.float64)
D = torch.tensor([[0.5], [0.0], [-0.7]], dtype=torch.float64)
R = 0.6
ZERO = torch.zeros(2, dtype=torch.float64)


def masked(*lengths: int) -> Tensor:
    """Return the mask [N, T] of sequences of these lengths."""
    steps = torch.arange(max(lengths))
    return steps < torch.tensor(lengths).unsqueeze(1)


def transition(before: Tensor, inputs: Tensor | None = None) -> dist.Distribution:
    return dist.Normal(before @ A.T, Q).to_event(1)


def observed(z: Tensor) -> dist.Distribution:
    return dist.Normal(z @ C.T, R).to_event(1)


def model(x: Tensor | None, mask: Tensor, *, size: int | None = None) -> Tensor:
    n = len(mask)
    with pyro.plate("data", size or n, subsample=torch.arange(n), dim=-1):
        z = pyro.sample("z", MarkovChain(transition, ZERO, mask))
        return pyro.sample("x", EachStep(observed, z, mask), obs=x)


def poor_guide(x: Tensor, mask: Tensor, *, size: int | None = None) -> Tensor:
    """Propose near the prior's step, with a hint of x."""
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x)), dim=-1):
        return pyro.sample("z", poor_chain(x, mask))


def poor_chain(x: Tensor, mask: Tensor) -> MarkovChain:
    def proposed(before: Tensor, hint: Tensor) -> dist.Distribution:
        return dist.Normal(0.6 * before @ A.T + hint, 0.8).to_event(1)

    return MarkovChain(proposed, ZERO, mask, 0.4 * x @ torch.linalg.pinv(C).T)


def exact_guide(x: Tensor, mask: Tensor) -> Tensor:
    """Sample the smoother, q(z_t | z_{t-1}, x_t:T), from the messages of a backward recursion."""
    with pyro.plate("data", len(x), dim=-1):
        return pyro.sample("z", exact_chain(x, mask))


def exact_chain(x: Tensor, mask: Tensor) -> MarkovChain:
    information, weight = (torch.stack(each) for each in zip(*_messages(x, mask), strict=True))
    precision = (1 / Q**2).diag()
    covariance = (precision + information).inverse()  # [T, N, D, D]
    inputs = torch.cat(
        [(covariance @ weight.unsqueeze(-1)).squeeze(-1), covariance.flatten(2)], dim=-1
    ).transpose(0, 1)

    def smoothed(before: Tensor, h: Tensor) -> dist.Distribution:
        spread = h[..., 2:].unflatten(-1, (2, 2))
        pull = (spread @ precision @ A @ before.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(pull + h[..., :2], spread)

    return MarkovChain(smoothed, ZERO, mask, inputs)


def _messages(x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return L_t and e_t of p(x_t:T | z_t) ~ exp(-z'L_t z / 2 + e_t'z), each [N, ...]."""
    n, length = mask.shape
    precision = (1 / Q**2).diag()
    information, weight = x.new_zeros(n, 2, 2), x.new_zeros(n, 2)
    found = []
    for t in reversed(range(length)):
        middle = (precision + information).inverse()
        before = A.T @ (precision - precision @ middle @ precision) @ A
        pulled = (A.T @ precision @ middle @ weight.unsqueeze(-1)).squeeze(-1)
        seen = mask[:, t, None]
        information = torch.where(seen.unsqueeze(-1), before + C.T @ C / R**2, before)
        weight = pulled + torch.where(seen, x[:, t] @ C / R**2, 0.0)
        found.append((information, weight))
    return found[::-1]


def log_evidence(x: Tensor, mask: Tensor) -> Tensor:
    """Return log p(x) [N] by the Kalman filter."""
    return torch.stack([_kalman(x[n, : int(mask[n].sum())]) for n in range(len(x))])


def _kalman(x: Tensor) -> Tensor:
    mean, covariance, found = ZERO, torch.zeros(2, 2, dtype=x.dtype), x.new_zeros(())
    for each in x:
        mean, covariance = A @ mean, A @ covariance @ A.T + (Q**2).diag()
        spread = C @ covariance @ C.T + R**2 * torch.eye(3, dtype=x.dtype)
        found = found + torch.distributions.MultivariateNormal(C @ mean, spread).log_prob(each)
        gain = covariance @ C.T @ spread.inverse()
        mean = mean + gain @ (each - C @ mean)
        covariance = covariance - gain @ C @ covariance
    return found


def predictive(x: Tensor, steps: int, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return means and variances [H, 3] of the next steps after x [T, 3], with controls c."""
    mean, spread, found = ZERO, torch.zeros(2, 2, dtype=A.dtype), []
    c = A.new_zeros(len(x) + steps, 1) if c is None else c
    for t in range(len(x) + steps):
        mean, spread = A @ mean + B @ c[t], A @ spread @ A.T + (Q**2).diag()
        of_x, noise = C @ mean + D @ c[t], C @ spread @ C.T + R**2 * torch.eye(3, dtype=A.dtype)
        if t < len(x):
            gain = spread @ C.T @ noise.inverse()
            mean, spread = mean + gain @ (x[t] - of_x), spread - gain @ C @ spread
        else:
            found.append((of_x, noise.diag()))
    means, variances = zip(*found, strict=True)
    return torch.stack(means), torch.stack(variances)


def response(c: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the controls c [N, T, 1] add to z and to x, [N, T, 2] and [N, T, 3]."""
    at, found = ZERO.expand(len(c), 2), []
    for t in range(c.shape[1]):
        at = at @ A.T + c[:, t] @ B.T
        found.append(at)
    z = torch.stack(found, 1)
    return z, z @ C.T + c @ D.T


def controlled(chain_of: Callable[[Tensor, Tensor], MarkovChain]) -> Callable[..., Tensor]:
    """Return the guide with controls, (x, c, mask), of a guide's chain without them."""

    def guide(x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        if c.ndim == 2:
            c = c.unsqueeze(1).expand(-1, mask.shape[1], -1)
        of_z, of_x = response(c)
        without = chain_of(x - of_x, mask)
        before = torch.nn.functional.pad(of_z[:, :-1], (0, 0, 1, 0))

        def moved(z: Tensor, inputs: Tensor) -> dist.Distribution:
            own, past, rest = inputs.tensor_split((2, 4), -1)
            shift = dist.transforms.AffineTransform(own, 1.0, event_dim=1)
            return dist.TransformedDistribution(without.transition(z - past, rest), [shift])

        inputs = torch.cat([of_z, before, without.inputs], -1)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", MarkovChain(moved, ZERO, mask, inputs))

    return guide


def sequences(mask: Tensor, seed: int = 0) -> Tensor:
    """Draw x [N, T, 3], with zeros at padding."""
    generator = torch.Generator().manual_seed(seed)
    z, steps = ZERO.expand(len(mask), 2), []
    for _ in range(mask.shape[1]):
        z = z @ A.T + Q * torch.randn(z.shape, generator=generator, dtype=z.dtype)
        noise = torch.randn(len(mask), 3, generator=generator, dtype=z.dtype)
        steps.append(z @ C.T + R * noise)
    return torch.where(mask.unsqueeze(-1), torch.stack(steps, 1), 0.0)
