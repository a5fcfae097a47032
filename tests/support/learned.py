"""The worlds of `worlds.py` with parameters to differentiate, and gradients to hold against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from worlds import ENUMERATE, Hierarchy, LinearGaussian, Mixture, data_plate

import pyrovae as pv


def parameter(value: Any) -> nn.Parameter:
    return nn.Parameter(
        torch.as_tensor(value, dtype=torch.float64).clone(memory_format=torch.contiguous_format)
    )


class _Likelihood(nn.Module):
    def __init__(self, world: LinearGaussian) -> None:
        super().__init__()
        self.world, self.mean = world, parameter(world.mean + 0.2)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        loc = (self.world.weight * z.unsqueeze(-2)).sum(-1) + self.mean
        return pyro.sample("x", dist.Normal(loc, self.world.noise).to_event(1), obs=x)


class _Posterior(nn.Module):
    def __init__(self, world: LinearGaussian) -> None:
        super().__init__()
        self.world, self.shift, self.log_scale = world, parameter(0.3), parameter(0.1)

    def at(self, x: Tensor) -> dist.Distribution:
        scale = self.world.off_scale * self.log_scale.exp()
        return dist.Normal(self.world.posterior_mean(x) + self.shift, scale).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        return pyro.sample("z", self.at(x))


class Linear(pv.VAE):
    """The linear-Gaussian world: the mean of x is learned, and the guide's shift and scale."""

    def __init__(self) -> None:
        world = LinearGaussian()
        super().__init__(world.prior, _Likelihood(world), _Posterior(world))
        self.world = world
        self.mean = self.likelihood.mean
        self.shift, self.log_scale = self.posterior.shift, self.posterior.log_scale

    def log_w(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the log-weights of draws z [K, N, 2], by torch's distributions alone."""
        loc = (self.world.weight * z.unsqueeze(-2)).sum(-1) + self.mean
        likelihood = torch.distributions.Normal(loc, self.world.noise).log_prob(x).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        return prior + likelihood - self.posterior.at(x).log_prob(z)


class Ladder(nn.Module):
    """The two-level world; each conditional of the guide has a mean and a scale of its own.

    At the start the guide is the exact posterior; `move` takes it away from there.
    """

    def __init__(self, *, move: float = 0.0) -> None:
        super().__init__()
        world = self.world = Hierarchy()
        self.model = world.model
        eye = torch.eye(4, dtype=torch.float64)
        top = world.given([0], [3, 4, 5], eye[:3, :3])
        low = world.given([1, 2], [0, 3, 4, 5], eye)
        self.top_gain, self.top_scale = parameter(top.mean.T), parameter(top.scale_tril[0])
        self.low_gain, self.low_scale = parameter(low.mean.T), parameter(low.scale_tril[0])
        with torch.no_grad():
            self.top_gain.add_(move)
            self.low_gain.add_(move)
            self.low_scale.mul_(1 + move)

    def guide(self, x: Tensor) -> None:
        normal = dist.MultivariateNormal
        with data_plate(x):
            top = pyro.sample("top", normal(x @ self.top_gain.T, scale_tril=self.top_scale))
            both = torch.cat([top, x.expand(*top.shape[:-1], 3)], -1)
            pyro.sample("low", normal(both @ self.low_gain.T, scale_tril=self.low_scale))


class Classes(nn.Module):
    """The mixture world with learned centers, and a guide that draws the class."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Mixture()
        self.centers = parameter(self.world.centers)
        self.logits = parameter([0.5, -0.3, 0.1])

    def model(self, x: Tensor, infer: Any = None) -> None:
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(self.world.weights), infer=infer or {})
            noise = dist.Normal(self.centers[c], self.world.noise)
            pyro.sample("x", noise.to_event(1), obs=x)

    def model_enumerated(self, x: Tensor) -> None:
        self.model(x, ENUMERATE)

    def guide(self, x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("c", dist.Categorical(logits=self.logits))

    def empty_guide(self, x: Tensor) -> None:
        pass

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log p(c, x), [N, 3]."""
        normal = torch.distributions.Normal(self.centers, self.world.noise)
        return self.world.weights.log() + normal.log_prob(x.unsqueeze(-2)).sum(-1)

    def exact_iwae_2(self, x: Tensor) -> Tensor:
        """Return IWAE at two particles, summed over data, by the sum over all pairs of classes."""
        log_q = self.logits.log_softmax(-1)
        log_w = self.log_joint(x) - log_q
        pairs = torch.logaddexp(log_w.unsqueeze(-1), log_w.unsqueeze(-2)) - math.log(2)
        return ((log_q.unsqueeze(-1) + log_q.unsqueeze(-2)).exp() * pairs).sum()

    def exact_elbo(self, x: Tensor) -> Tensor:
        log_q = self.logits.log_softmax(-1)
        return (log_q.exp() * (self.log_joint(x) - log_q)).sum()


BATCHES, ROWS = 40, 500


@dataclass(frozen=True)
class Mean:
    """A mean of BATCHES independent batches, and its standard error."""

    value: Tensor
    error: Tensor

    def agrees(self, other: Mean | Tensor, errors: float = 4.0) -> bool:
        if isinstance(other, Mean):
            between = (self.error**2 + other.error**2).sqrt()
            return bool(((self.value - other.value).abs() <= errors * between).all())
        return bool(((self.value - other).abs() <= errors * self.error).all())


def mean_of(values: list[Tensor]) -> Mean:
    stacked = torch.stack(values)
    return Mean(stacked.mean(0), stacked.std(0) / math.sqrt(len(values)))


def mean_gradient(loss: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> Mean:
    """Return the gradient of a loss for the data x, the mean over BATCHES * ROWS draws of it."""
    many = x.repeat(ROWS, 1)
    found = []
    for seed in range(BATCHES):
        torch.manual_seed(seed)
        grads = torch.autograd.grad(loss(many) / ROWS, parameters, allow_unused=True)
        found.append(
            flat([0 * p if g is None else g for p, g in zip(parameters, grads, strict=True)])
        )
    return mean_of(found)


def difference(
    loss: Callable[[], float], parameters: list[nn.Parameter], step: float = 1e-5
) -> Tensor:
    """Return the central finite difference of a loss, at the same draws on both sides."""
    found = []
    for entry in (e for p in parameters for e in p.data.view(-1)):
        sides = []
        for sign in (1, -1):
            with moved(entry, sign * step):
                torch.manual_seed(0)
                sides.append(loss())
        found.append((sides[0] - sides[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


@contextmanager
def moved(entry: Tensor, by: float) -> Iterator[None]:
    before = entry.clone()
    entry.add_(by)
    try:
        yield
    finally:
        entry.copy_(before)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
