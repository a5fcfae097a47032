"""Discrete latents: classes that are summed out exactly, classes relaxed to a simplex, bits.

A class comes to the networks as a one-hot vector [..., C], whatever its site holds, so that
`net(z)` reads a drawn class, a summed-out one (all classes along an axis of their own, left of
the particles) and a relaxed one alike.
"""

from __future__ import annotations

import math
from typing import Final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.concrete import LogConcrete
from pyrovae.parts import Part
from pyrovae.priors.base import Prior, check_latents

__all__ = [
    "Bernoulli",
    "Categorical",
    "OneHot",
    "RelaxedOneHot",
    "sample_index",
    "sample_one_hot",
    "sample_relaxed",
    "set_temperature",
]

ENUMERATE: Final = {"enumerate": "parallel"}


def sample_index(fn: dist.Distribution) -> Tensor:
    """Sample a class by its index at a site "z" that is enumerable; return it one-hot."""
    index = pyro.sample("z", fn, infer=ENUMERATE)
    classes = torch.arange(fn.logits.shape[-1], device=index.device)
    return (index.unsqueeze(-1) == classes).to(fn.logits.dtype)


def sample_one_hot(fn: dist.Distribution) -> Tensor:
    """Sample a one-hot vector at a site "z" that is enumerable."""
    z: Tensor = pyro.sample("z", fn, infer=ENUMERATE)
    return z


def sample_relaxed(fn: LogConcrete) -> Tensor:
    """Sample log y at a site "z" and return y, a point in the simplex."""
    log_y: Tensor = pyro.sample("z", fn)
    return log_y.exp()


def set_temperature(held: Tensor, temperature: float) -> None:
    """Change a temperature in place, so that a step that was compiled with it sees it.

    Raises:
        ValueError: if it is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is positive and finite; got {temperature}")
    held.fill_(temperature)


def _keep_logits(owner: Part, logits: Tensor, *, learned: bool) -> None:
    if learned:
        owner.register_parameter("logits", nn.Parameter(logits))
    else:
        owner.register_buffer("logits", logits)


class _Classes(Part):
    """Hold the logits of C classes: zeros, or learned from zeros."""

    logits: Tensor

    def __init__(self, classes: int, *, learned: bool = False) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes; got {classes}")
        _keep_logits(self, torch.zeros(classes), learned=learned)


class Categorical(_Classes):
    r"""Sample a class at a site "z" that holds its index, and return it one-hot.

    $$ p(z = c) = \mathrm{softmax}(h)_c $$

    The site is marked for parallel enumeration: `log_weights` and `TraceEnum_ELBO` sum over it
    exactly, unless the guide draws it. An index is what labels are, so
    `pyro.condition(vae.model, {"z": labels})` makes a classified model of it.

    Args:
        classes: C.
        learned: whether h is learned, from uniform; it stays uniform otherwise.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import pyro, torch
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     Categorical(10)().shape
        torch.Size([3, 10])
        >>> tape.trace.nodes["z"]["value"].shape
        torch.Size([3])
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample a class and return it one-hot, [..., C]; the context does not matter."""
        return sample_index(dist.Categorical(logits=self.logits))


class OneHot(_Classes):
    r"""Sample a class at a site "z" that holds its one-hot vector, and return it.

    $$ p(z = e_c) = \mathrm{softmax}(h)_c $$

    As `Categorical`, with the vector in place of the index at the site.

    Args:
        classes: C.
        learned: whether h is learned, from uniform; it stays uniform otherwise.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import pyro, torch
        >>> with pyro.plate("data", 3):
        ...     OneHot(10)().sum(-1)
        tensor([1., 1., 1.])
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample a one-hot vector [..., C]; the context does not matter."""
        return sample_one_hot(dist.OneHotCategorical(logits=self.logits))


class RelaxedOneHot(_Classes):
    r"""Sample a point y of the simplex from the Concrete (Gumbel-softmax) distribution.

    $$ p(y) = (C - 1)! \, T^{C-1} \prod_c \frac{\pi_c \, y_c^{-T-1}}{\sum_j \pi_j y_j^{-T}},
       \qquad \pi = \mathrm{softmax}(h) $$

    The site "z" holds log y; the likelihood takes y. With `guides.RelaxedOneHot` every draw is
    differentiable. The bound is one of the relaxed model, whose likelihood meets points between
    the corners: it is no bound on the evidence of the model with classes, whatever the
    temperature. Measure that one with the classes summed out, on the trained networks:
    `VAE(OneHot(C), vae.likelihood, guides.OneHot(vae.posterior.net))`.

    Args:
        classes: C.
        temperature: T; as it falls to 0 the draws approach one-hot vectors.
        learned: whether h is learned, from uniform; it stays uniform otherwise.

    Raises:
        ValueError: if there are fewer than two classes, or the temperature is not positive.

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution.

    Example:
        >>> import pyro, torch
        >>> with pyro.plate("data", 3):
        ...     RelaxedOneHot(10, temperature=0.5)().sum(-1)
        tensor([1.0000, 1.0000, 1.0000])
    """

    temperature: Tensor

    def __init__(self, classes: int, *, temperature: float, learned: bool = False) -> None:
        super().__init__(classes, learned=learned)
        self.register_buffer("temperature", torch.ones(()))
        self.anneal(temperature)

    def anneal(self, temperature: float) -> None:
        """Change the temperature, between steps too; the guide has one of its own.

        Raises:
            ValueError: if it is not positive and finite.
        """
        set_temperature(self.temperature, temperature)

    def forward(self, *context: Tensor) -> Tensor:
        """Sample y in the simplex, [..., C]; the context does not matter."""
        return sample_relaxed(LogConcrete(self.temperature, logits=self.logits))


class Bernoulli(Prior):
    r"""Sample a vector of D bits at a site "z".

    $$ p(z) = \prod_d \mathrm{Bernoulli}(z_d; \sigma(h_d)) $$

    The bits are drawn, not summed out: there are $2^D$ vectors. `Trace_ELBO` trains the guide by
    the score function.

    Args:
        latents: D.
        learned: whether h is learned, from 0; each bit is fair otherwise.

    Raises:
        ValueError: if `latents` is below 1.

    References:
        Mnih, Gregor, 2014. Neural Variational Inference and Learning in Belief Networks.

    Example:
        >>> import pyro, torch
        >>> with pyro.plate("data", 3):
        ...     Bernoulli(20)().unique()
        tensor([0., 1.])
    """

    logits: Tensor

    def __init__(self, latents: int, *, learned: bool = False) -> None:
        super().__init__()
        check_latents(self, latents)
        _keep_logits(self, torch.zeros(latents), learned=learned)

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the bits; the context does not matter."""
        return dist.Bernoulli(logits=self.logits).to_event(1)
