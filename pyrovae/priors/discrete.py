"""Priors over discrete latents: enumerated classes, relaxed classes, and bits.

A prior over classes returns a one-hot vector [..., C] (or a point of the simplex), whatever its
site holds. The networks therefore take a sampled class, an enumerated class (with an enumeration
axis left of the particles) and a relaxed class in the same form.
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
    """Sample the index of a class at an enumerable site "z"; return the one-hot vector."""
    index = pyro.sample("z", fn, infer=ENUMERATE)
    classes = torch.arange(fn.logits.shape[-1], device=index.device)
    return (index.unsqueeze(-1) == classes).to(fn.logits.dtype)


def sample_one_hot(fn: dist.Distribution) -> Tensor:
    """Sample a one-hot vector at an enumerable site "z"."""
    z: Tensor = pyro.sample("z", fn, infer=ENUMERATE)
    return z


def sample_relaxed(fn: LogConcrete) -> Tensor:
    """Sample log y at a site "z"; return y, a point of the simplex."""
    log_y: Tensor = pyro.sample("z", fn)
    return log_y.exp()


def set_temperature(held: Tensor, temperature: float) -> None:
    """Set a temperature in place, so that compiled steps see the new value.

    Raises:
        ValueError: if it is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature must be positive and finite; got {temperature}")
    held.fill_(temperature)


def _keep_logits(owner: Part, logits: Tensor, *, learned: bool) -> None:
    if learned:
        owner.register_parameter("logits", nn.Parameter(logits))
    else:
        owner.register_buffer("logits", logits)


class _Classes(Part):
    """Hold the logits of C classes, initially zero, as a buffer or as a parameter."""

    logits: Tensor

    def __init__(self, classes: int, *, learned: bool = False) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes; got {classes}")
        _keep_logits(self, torch.zeros(classes), learned=learned)


class Categorical(_Classes):
    r"""Sample the index of a class at a site "z", and return the one-hot vector.

    $$ p(z = c) = \mathrm{softmax}(h)_c $$

    The site is marked for parallel enumeration: `log_weights` and `TraceEnum_ELBO` sum over it
    exactly, unless the guide samples it. Class labels are indices too, so
    `pyro.condition(vae.model, {"z": labels})` gives the model of labeled data.

    Args:
        classes: the number C of classes.
        learned: whether to learn h. It is zero initially, and stays so unless it is learned.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import Categorical
        >>> with pyro.poutine.trace() as tape, pyro.plate("data", 3):
        ...     Categorical(10)().shape
        torch.Size([3, 10])
        >>> tape.trace.nodes["z"]["value"].shape
        torch.Size([3])
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample a class and return its one-hot vector [..., C]; the context is ignored."""
        return sample_index(dist.Categorical(logits=self.logits))


class OneHot(_Classes):
    r"""Sample a one-hot vector at a site "z".

    $$ p(z = e_c) = \mathrm{softmax}(h)_c $$

    It is like `Categorical`, but the site holds the vector instead of the index.

    Args:
        classes: the number C of classes.
        learned: whether to learn h. It is zero initially, and stays so unless it is learned.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import OneHot
        >>> with pyro.plate("data", 3):
        ...     OneHot(10)().sum(-1)
        tensor([1., 1., 1.])
    """

    def forward(self, *context: Tensor) -> Tensor:
        """Sample a one-hot vector [..., C]; the context is ignored."""
        return sample_one_hot(dist.OneHotCategorical(logits=self.logits))


class RelaxedOneHot(_Classes):
    r"""Sample a point y of the simplex from the Concrete (Gumbel-softmax) distribution.

    $$ p(y) = (C - 1)! \, T^{C-1} \prod_c \frac{\pi_c \, y_c^{-T-1}}{\sum_j \pi_j y_j^{-T}},
       \qquad \pi = \mathrm{softmax}(h) $$

    The site "z" holds log y; the likelihood takes y. Samples of prior and `guides.RelaxedOneHot`
    are reparameterized. Bounds are on the evidence of the relaxed model. They are not bounds on
    the evidence of the discrete model at any temperature, because the relaxed likelihood is
    evaluated inside the simplex. To evaluate the discrete model, enumerate the classes with the
    trained networks: `VAE(OneHot(C), vae.likelihood, guides.OneHot(vae.posterior.net))`.

    Args:
        classes: the number C of classes.
        temperature: T; samples approach one-hot vectors as it goes to 0.
        learned: whether to learn h. It is zero initially, and stays so unless it is learned.

    Raises:
        ValueError: if there are fewer than two classes, or the temperature is not positive and
            finite.

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import RelaxedOneHot
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
        """Set the temperature, at any time between steps. The guide has its own temperature.

        Raises:
            ValueError: if it is not positive and finite.
        """
        set_temperature(self.temperature, temperature)

    def forward(self, *context: Tensor) -> Tensor:
        """Sample y in the simplex, [..., C]; the context is ignored."""
        return sample_relaxed(LogConcrete(self.temperature, logits=self.logits))


class Bernoulli(Prior):
    r"""Sample a vector of D bits at a site "z".

    $$ p(z) = \prod_d \mathrm{Bernoulli}(z_d; \sigma(h_d)) $$

    The bits are sampled, not enumerated, since there are $2^D$ vectors. `Trace_ELBO` trains the
    guide with the score-function estimator.

    Args:
        latents: the number D of bits.
        learned: whether to learn h. It is zero initially, and stays so unless it is learned.

    Raises:
        ValueError: if `latents` is below 1.

    References:
        Mnih, Gregor, 2014. Neural Variational Inference and Learning in Belief Networks.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.priors import Bernoulli
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
        """Return the Bernoulli distribution; the context is ignored."""
        return dist.Bernoulli(logits=self.logits).to_event(1)
