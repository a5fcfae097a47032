"""Guides for the discrete priors of `pyrovae.priors.discrete`."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.concrete import LogConcrete
from pyrovae.guides.base import Guide, Posterior
from pyrovae.priors.discrete import sample_index, sample_one_hot, sample_relaxed, set_temperature

__all__ = ["Bernoulli", "Categorical", "OneHot", "RelaxedOneHot"]


def _check_classes(logits: Tensor, owner: Posterior) -> Tensor:
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{type(owner).__name__} expected a network with one output per class, at least two; "
            f"got {logits.shape[-1]}"
        )
    return logits


class Categorical(Posterior):
    r"""A categorical posterior over class indices, $q(z = c | x) = \mathrm{softmax}(h(x))_c$.

    The site is marked for parallel enumeration: `TraceEnum_ELBO` computes the expectation over
    it exactly, without the variance of the score-function estimator, and `log_weights` sums over
    it.

    Args:
        net: maps x to C logits h.

    Raises:
        ValueError: if the network has fewer than two outputs.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import Categorical
        >>> with pyro.plate("data", 3):
        ...     Categorical(MLP(64, 10))(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) with logits [..., C]."""
        return dist.Categorical(logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample the index z ~ q(z | x) and return its one-hot vector [..., C]."""
        return sample_index(self.distribution(self.net(x, *context)))


class OneHot(Posterior):
    r"""A categorical posterior over one-hot vectors, $q(z = e_c | x) = \mathrm{softmax}(h(x))_c$.

    It is like `Categorical`, but the site holds the vector instead of the index.

    Args:
        net: maps x to C logits h.

    Raises:
        ValueError: if the network has fewer than two outputs.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import OneHot
        >>> with pyro.plate("data", 3):
        ...     OneHot(MLP(64, 10))(torch.zeros(3, 64)).sum(-1)
        tensor([1., 1., 1.])
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) with logits [..., C]."""
        return dist.OneHotCategorical(logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample a one-hot vector z ~ q(z | x), [..., C]."""
        return sample_one_hot(self.distribution(self.net(x, *context)))


class RelaxedOneHot(Posterior):
    r"""The Concrete (Gumbel-softmax) posterior for `priors.RelaxedOneHot`.

    $$ \log y = \mathrm{log\,softmax}((h(x) + g) / T), \quad g_c \sim \mathrm{Gumbel}(0, 1) $$

    Args:
        net: maps x to C logits h.
        temperature: T, positive; it may differ from the prior's.

    Raises:
        ValueError: if the network has fewer than two outputs, or the temperature is not positive
            and finite.

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import RelaxedOneHot
        >>> guide = RelaxedOneHot(MLP(64, 10), temperature=1.0)
        >>> guide.anneal(0.5)
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    temperature: Tensor

    def __init__(self, net: nn.Module, *, temperature: float) -> None:
        super().__init__(net)
        self.register_buffer("temperature", torch.ones(()))
        self.anneal(temperature)

    def anneal(self, temperature: float) -> None:
        """Set the temperature, at any time between steps. The prior has its own temperature.

        Raises:
            ValueError: if it is not positive and finite.
        """
        set_temperature(self.temperature, temperature)

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) with logits [..., C]."""
        return LogConcrete(self.temperature, logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample y ~ q(y | x) in the simplex, [..., C]; the site holds log y."""
        return sample_relaxed(self.distribution(self.net(x, *context)))


class Bernoulli(Guide):
    r"""A Bernoulli posterior over D bits.

    $$ q(z | x) = \prod_d \mathrm{Bernoulli}(z_d; \sigma(h_d(x))) $$

    The bits are sampled, so the network is trained with the score-function estimator
    (`Trace_ELBO`).

    Args:
        net: maps x to D logits h.

    References:
        Mnih, Gregor, 2014. Neural Variational Inference and Learning in Belief Networks.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.guides import Bernoulli
        >>> with pyro.plate("data", 3):
        ...     Bernoulli(MLP(64, 20))(torch.zeros(3, 64)).shape
        torch.Size([3, 20])
    """

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the Bernoulli distribution with logits [..., D]."""
        return dist.Bernoulli(logits=parameters).to_event(1)
