"""Worlds whose evidence, posterior and bounds are known in closed form, all in float64.

The truth here comes from `torch.distributions` and from explicit sums, never from the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrovae as pv

ENUMERATE = {"enumerate": "parallel"}


def random(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers from a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data_plate(x: Tensor | None, size: int | None = None) -> pyro.plate:
    n = size if x is None else len(x)
    return pyro.plate("data", size or n, subsample=torch.arange(n), dim=-1)


class LinearGaussian:
    r"""Probabilistic PCA: z ~ N(0, I), x ~ N(W z + m, s^2 I), so x ~ N(m, W W' + s^2 I).

    The exact posterior is N(S W' (x - m) / s^2, S) with S = (I + W' W / s^2)^-1. The off guide
    drops its correlations, moves its mean and stretches its scale; its KL to the exact posterior
    is the same for every x.

    References:
        Tipping, Bishop, 1999. Probabilistic Principal Component Analysis.
    """

    def __init__(
        self, latents: int = 2, width: int = 3, *, shift: float = 0.2, scale: float = 1.0
    ) -> None:
        self.weight, self.mean = scale * random(1, width, latents), random(2, width)
        self.noise = 0.6
        eye = torch.eye(latents, dtype=torch.float64)
        precision = eye + self.weight.T @ self.weight / self.noise**2
        self.covariance = precision.inverse()
        self.scale_tril = torch.linalg.cholesky(self.covariance)
        self.shift, self.off_scale = shift, 1.1 * precision.diagonal().rsqrt()
        self.latents, self.width = latents, width

    def prior(self) -> Tensor:
        zero = torch.zeros(self.latents, dtype=torch.float64)
        return pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))

    def likelihood(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Score x; the product is written out so that no row depends on another's place."""
        loc = (self.weight * z.unsqueeze(-2)).sum(-1) + self.mean
        return pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def posterior_mean(self, x: Tensor) -> Tensor:
        projection = self.covariance @ self.weight.T / self.noise**2
        return (projection * (x - self.mean).unsqueeze(-2)).sum(-1)

    def exact_posterior(self, x: Tensor) -> Tensor:
        loc = self.posterior_mean(x)
        return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.scale_tril))

    def off_posterior(self, x: Tensor) -> Tensor:
        loc = self.posterior_mean(x) + self.shift
        return pyro.sample("z", dist.Normal(loc, self.off_scale).to_event(1))

    def mode(self, x: Tensor) -> Tensor:
        """Put all mass on the posterior's mode: no draw is random."""
        return pyro.sample("z", dist.Delta(self.posterior_mean(x), event_dim=1))

    def model(self, x: Tensor | None, *, size: int | None = None) -> Tensor:
        with data_plate(x, size):
            return self.likelihood(self.prior(), x)

    def exact_guide(self, x: Tensor) -> Tensor:
        with data_plate(x):
            return self.exact_posterior(x)

    def off_guide(self, x: Tensor) -> Tensor:
        with data_plate(x):
            return self.off_posterior(x)

    def mode_guide(self, x: Tensor) -> Tensor:
        with data_plate(x):
            return self.mode(x)

    def vae(self, posterior: Callable[..., Any] | None = None) -> pv.VAE:
        return pv.VAE(self.prior, self.likelihood, posterior or self.off_posterior)

    @property
    def marginal(self) -> torch.distributions.MultivariateNormal:
        noise = self.noise**2 * torch.eye(self.width, dtype=torch.float64)
        covariance = self.weight @ self.weight.T + noise
        return torch.distributions.MultivariateNormal(self.mean, covariance)

    def sample(self, n: int) -> Tensor:
        return self.marginal.sample((n,))

    def log_evidence(self, x: Tensor) -> Tensor:
        return self.marginal.log_prob(x)

    @property
    def off_pair(self) -> tuple[Any, Any]:
        """The off guide and the exact posterior, both with the exact mean moved to 0."""
        normal = torch.distributions.MultivariateNormal
        zero = torch.zeros(self.latents, dtype=torch.float64)
        off = normal(zero + self.shift, scale_tril=torch.diag(self.off_scale))
        return off, normal(zero, scale_tril=self.scale_tril)

    @property
    def off_kl(self) -> float:
        return float(torch.distributions.kl_divergence(*self.off_pair))

    def off_elbo(self, x: Tensor) -> Tensor:
        return self.log_evidence(x) - self.off_kl

    def off_gap(self, k: int, groups: int) -> tuple[float, float]:
        """Draw log p(x) - IWAE-k of the off guide, the same for every x; with standard error."""
        off, exact = self.off_pair
        z = off.sample((groups, k))
        log_ratio = exact.log_prob(z) - off.log_prob(z)
        gaps = math.log(k) - log_ratio.logsumexp(1)
        return float(gaps.mean()), float(gaps.std()) / math.sqrt(groups)


class Mixture:
    """A class c of three, a center for each, x around it: the evidence is a sum of three terms.

    With `continuous` a latent z lies between the class and x: z ~ N(center_c, t^2), x ~ N(z, s^2).
    """

    def __init__(self, *, continuous: bool = False) -> None:
        self.weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        self.centers, self.noise = 1.5 * random(3, 3, 2), 0.7
        self.spread = 0.8 if continuous else 0.0

    def _model(self, x: Tensor, infer: dict[str, str]) -> None:
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(self.weights), infer=infer)
            loc = self.centers[c]
            if self.spread:
                loc = pyro.sample("z", dist.Normal(loc, self.spread).to_event(1))
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def model(self, x: Tensor) -> None:
        self._model(x, {})

    def model_enumerated(self, x: Tensor) -> None:
        self._model(x, ENUMERATE)

    def _guide(self, x: Tensor, infer: dict[str, str]) -> None:
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(self.off_classes(x)), infer=infer)
            if self.spread:
                pyro.sample("z", self.within_class(x, self.centers[c]).to_event(1))

    def guide(self, x: Tensor) -> None:
        """Draw the class from the off posterior, z from its exact conditional."""
        self._guide(x, {})

    def guide_enumerated(self, x: Tensor) -> None:
        self._guide(x, ENUMERATE)

    def guide_without_class(self, x: Tensor) -> None:
        """Draw z (if there is one) given x alone; the class is left to the model."""
        with data_plate(x):
            if self.spread:
                pyro.sample("z", self.broad(x).to_event(1))

    def broad(self, x: Tensor) -> dist.Normal:
        return dist.Normal(0.8 * x, 1.1)

    def within_class(self, x: Tensor, center: Tensor) -> dist.Normal:
        """Return p(z | x, c), by Bayes' rule for normals."""
        precision = self.noise**-2 + self.spread**-2
        loc = (x / self.noise**2 + center / self.spread**2) / precision
        return dist.Normal(loc, precision**-0.5)

    def off_classes(self, x: Tensor) -> Tensor:
        return (0.5 * self.log_joint(x)).softmax(-1)

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log p(c, x), [N, 3], with z integrated out."""
        scale = math.hypot(self.noise, self.spread)
        normal = torch.distributions.Normal(self.centers, scale)
        return self.weights.log() + normal.log_prob(x.unsqueeze(-2)).sum(-1)

    def log_evidence(self, x: Tensor) -> Tensor:
        return self.log_joint(x).logsumexp(-1)

    def sampled_elbo(self, x: Tensor) -> Tensor:
        """Return the ELBO of `guide` by the explicit sum over classes."""
        classes = self.off_classes(x)
        return (classes * (self.log_joint(x) - classes.log())).sum(-1)

    def log_joint_with(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x, z) of the continuous world, the class summed out."""
        normal = torch.distributions.Normal
        within = normal(self.centers, self.spread).log_prob(z.unsqueeze(-2)).sum(-1)
        log_prior = (self.weights.log() + within).logsumexp(-1)
        return log_prior + normal(z, self.noise).log_prob(x).sum(-1)

    def sample(self, n: int) -> Tensor:
        center = self.centers[torch.multinomial(self.weights, n, replacement=True)]
        return center + math.hypot(self.noise, self.spread) * torch.randn_like(center)


class Hierarchy:
    """Two latent sites: top ~ N(0, I), low ~ N(A top, t^2 I), x ~ N(W low, s^2 I)."""

    def __init__(self) -> None:
        self.lift, self.weight = random(4, 2, 1), random(5, 3, 2)
        self.spread, self.noise = 0.7, 0.5
        top = torch.eye(1, dtype=torch.float64)
        # Each of (top, low, x) is a linear map of the independent unit normals of the three.
        maps = torch.zeros(6, 6, dtype=torch.float64)
        maps[:1, :1] = top
        maps[1:3] = self.lift @ maps[:1]
        maps[1:3, 1:3] = self.spread * torch.eye(2, dtype=torch.float64)
        maps[3:] = self.weight @ maps[1:3]
        maps[3:, 3:] = self.noise * torch.eye(3, dtype=torch.float64)
        self.covariance = maps @ maps.T

    def given(self, target: list[int], known: list[int], values: Tensor) -> Any:
        """Return the conditional normal of some coordinates of (top, low, x) given others."""
        cross = self.covariance[target][:, known]
        gain = torch.linalg.solve(self.covariance[known][:, known], cross.T).T
        left = self.covariance[target][:, target] - gain @ cross.T
        return dist.MultivariateNormal(values @ gain.T, scale_tril=torch.linalg.cholesky(left))

    def model(self, x: Tensor) -> None:
        with data_plate(x):
            zero = torch.zeros(1, dtype=torch.float64)
            top = pyro.sample("top", dist.Normal(zero, 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(top @ self.lift.T, self.spread).to_event(1))
            pyro.sample("x", dist.Normal(low @ self.weight.T, self.noise).to_event(1), obs=x)

    def exact_guide(self, x: Tensor) -> None:
        """Sample top, then low: the order of the model."""
        with data_plate(x):
            top = pyro.sample("top", self.given([0], [3, 4, 5], x))
            both = torch.cat([top, x.expand(*top.shape[:-1], 3)], -1)
            pyro.sample("low", self.given([1, 2], [0, 3, 4, 5], both))

    def exact_guide_upwards(self, x: Tensor) -> None:
        """Sample low, then top."""
        with data_plate(x):
            low = pyro.sample("low", self.given([1, 2], [3, 4, 5], x))
            pyro.sample("top", self.given([0], [1, 2], low))

    @property
    def marginal(self) -> torch.distributions.MultivariateNormal:
        zero = torch.zeros(3, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(zero, self.covariance[3:, 3:])

    def sample(self, n: int) -> Tensor:
        return self.marginal.sample((n,))

    def log_evidence(self, x: Tensor) -> Tensor:
        return self.marginal.log_prob(x)

    def posterior_kl(self, x: Tensor) -> Tensor:
        """Return KL(p(top, low | x) || p(top, low)), the rate of the exact guide."""
        posterior = self.given([0, 1, 2], [3, 4, 5], x)
        zero = torch.zeros(3, dtype=torch.float64)
        prior = torch.distributions.MultivariateNormal(zero, self.covariance[:3, :3])
        return torch.distributions.kl_divergence(posterior, prior)


@dataclass(frozen=True)
class Pair:
    """A model and a guide, data, and the truth about them, [N]."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    x: Tensor
    log_evidence: Tensor
    elbo: Tensor


def _pair(world: Any, model: Any, guide: Any, elbo: Any = None) -> Pair:
    x = world.sample(6)
    log_evidence = world.log_evidence(x)
    return Pair(model, guide, x, log_evidence, log_evidence if elbo is None else elbo(x))


def linear_gaussian(guide: str) -> Pair:
    world = LinearGaussian()
    elbo = world.off_elbo if guide == "off" else None
    return _pair(world, world.model, getattr(world, f"{guide}_guide"), elbo)


def linear_gaussian_vae(guide: str) -> Pair:
    world = LinearGaussian()
    vae = world.vae(getattr(world, f"{guide}_posterior"))
    return _pair(world, vae.model, vae.guide, world.off_elbo if guide == "off" else None)


def hierarchy(guide: str) -> Pair:
    world = Hierarchy()
    return _pair(world, world.model, getattr(world, guide))


def mixture(model: str, guide: str, *, continuous: bool = False) -> Pair:
    world = Mixture(continuous=continuous)
    elbo = world.sampled_elbo if guide == "guide" else None
    return _pair(world, getattr(world, model), getattr(world, guide), elbo)


EXACT: dict[str, Callable[[], Pair]] = {
    "linear": lambda: linear_gaussian("exact"),
    "linear as a VAE": lambda: linear_gaussian_vae("exact"),
    "hierarchy downwards": lambda: hierarchy("exact_guide"),
    "hierarchy upwards": lambda: hierarchy("exact_guide_upwards"),
    "class summed in the model": lambda: mixture("model_enumerated", "guide_without_class"),
    "class summed in the guide": lambda: mixture("model", "guide_enumerated"),
    "class summed, z exact": lambda: mixture("model", "guide_enumerated", continuous=True),
}
"""Pairs whose log-weights equal the log-evidence, whatever is drawn."""

OFF: dict[str, Callable[[], Pair]] = {
    "linear": lambda: linear_gaussian("off"),
    "linear as a VAE": lambda: linear_gaussian_vae("off"),
    "class drawn": lambda: mixture("model", "guide"),
    "class drawn, z exact": lambda: mixture("model", "guide", continuous=True),
}
"""Pairs whose guide is not the posterior, with their exact ELBO."""
