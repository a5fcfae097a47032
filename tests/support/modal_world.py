"""Modalities that are linear in one normal z, so that each density given any others is normal.

z ~ N(0, I), x_m ~ N(W_m z, s_m^2 I). The columns of each W_m are orthogonal, so that the posterior
given any modalities has independent coordinates, and each p(x_m | z) is such a normal in z. The
truth is computed here from the joint covariance of all x, and nothing of it is the library's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from exact_parts import exactly, linear, noisy
from torch import Tensor
from worlds import random

import pyrovae as pv
from pyrovae.nets import Modalities

LATENTS = 2
WIDTHS = {"a": 3, "b": 2, "c": 4}
NOISES = {"a": 0.6, "b": 0.9, "c": 1.3}
SIZES = torch.tensor([1.2, 0.7], dtype=torch.float64)
EYE = partial(torch.eye, dtype=torch.float64)


class ModalWorld:
    """The first M of three modalities."""

    def __init__(self, names: str = "ab") -> None:
        self.modalities = Modalities(**{name: WIDTHS[name] for name in names})
        self.weights = {
            name: torch.linalg.qr(random(10 + WIDTHS[name], WIDTHS[name], LATENTS))[0] * SIZES
            for name in names
        }
        weight = torch.cat(list(self.weights.values()))
        noise = torch.block_diag(*(NOISES[name] ** 2 * EYE(WIDTHS[name]) for name in names))
        self.covariance = weight @ weight.T + noise

    def places(self, names: str) -> list[int]:
        """Return the columns of some modalities."""
        columns = self.modalities.columns
        return [i for name in names for i in range(columns[name].start, columns[name].stop)]

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return random(seed, n, len(self.covariance)) @ torch.linalg.cholesky(self.covariance).T

    def log_p(self, x: Tensor, names: str) -> Tensor:
        """Return log p of some modalities, [N]."""
        own = self.places(names)
        if not own:
            return x.new_zeros(len(x))
        covariance = self.covariance[own][:, own]
        return torch.distributions.MultivariateNormal(
            torch.zeros(len(own), dtype=torch.float64), covariance
        ).log_prob(x[:, own])

    def log_p_given(self, x: Tensor, of: str, given: str) -> Tensor:
        """Return log p of some modalities given others, by their conditional normal, [N]."""
        own, known = self.places(of), self.places(given)
        cross = self.covariance[own][:, known]
        gain = torch.linalg.solve(self.covariance[known][:, known], cross.T).T
        left = self.covariance[own][:, own] - gain @ cross.T
        normal = torch.distributions.MultivariateNormal
        return normal(x[:, known] @ gain.T, left).log_prob(x[:, own])

    def likelihood(self) -> Any:
        parts = {name: noisy(exactly(w), NOISES[name]) for name, w in self.weights.items()}
        return pv.likelihoods.EachModality(self.modalities, **parts).double()

    def experts(self, *, prior: bool) -> dict[str, Any]:
        """Return networks to e_m(z), proportional to p(x_m | z), times the prior if asked for."""
        found = {}
        for name, weight in self.weights.items():
            precision = (SIZES / NOISES[name]).square() + float(prior)
            gain = weight.T / NOISES[name] ** 2 / precision.unsqueeze(-1)
            found[name] = linear(gain, torch.zeros(LATENTS).double(), precision.rsqrt())
        return found

    def vae(self, guide: type, *, prior: bool = False) -> pv.VAE:
        exact = guide(self.modalities, **self.experts(prior=prior))
        return pv.VAE(pv.priors.StandardNormal(LATENTS).double(), self.likelihood(), exact)
