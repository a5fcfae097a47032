"""Posteriors over discrete latents: the guides of the priors in `pyrovae.priors.discrete`."""

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
            f"{type(owner).__name__} expected a network with an output for each of at least two "
            f"classes; got {logits.shape[-1]}"
        )
    return logits


class Categorical(Posterior):
    r"""The posterior of a class, $q(z = c | x) = \mathrm{softmax}(h(x))_c$, by its index.

    The site is marked for parallel enumeration: `TraceEnum_ELBO` takes the expectation over it
    exactly, without the noise of the score function, and `log_weights` sums the class out.

    Args:
        net: maps x to C logits h.

    Raises:
        ValueError: if the network has fewer than two outputs.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> with pyro.plate("data", 3):
        ...     Categorical(MLP(64, 10))(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) of logits [..., C]."""
        return dist.Categorical(logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x) and return it one-hot."""
        return sample_index(self.posterior(self.net(x, *context)))


class OneHot(Posterior):
    r"""The posterior of a one-hot vector, $q(z = e_c | x) = \mathrm{softmax}(h(x))_c$.

    As `Categorical`, with the vector in place of the index at the site.

    Args:
        net: maps x to C logits h.

    Raises:
        ValueError: if the network has fewer than two outputs.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> with pyro.plate("data", 3):
        ...     OneHot(MLP(64, 10))(torch.zeros(3, 64)).sum(-1)
        tensor([1., 1., 1.])
    """

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) of logits [..., C]."""
        return dist.OneHotCategorical(logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample z ~ q(z | x)."""
        return sample_one_hot(self.posterior(self.net(x, *context)))


class RelaxedOneHot(Posterior):
    """The Concrete (Gumbel-softmax) posterior of a `priors.RelaxedOneHot`, at its own temperature.

    Args:
        net: maps x to C logits.
        temperature: above 0; it need not be the prior's.

    Raises:
        ValueError: if the network has fewer than two outputs, or the temperature is not positive.

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
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
        """Change the temperature, between steps too; the prior has one of its own.

        Raises:
            ValueError: if it is not positive and finite.
        """
        set_temperature(self.temperature, temperature)

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) of logits [..., C]."""
        return LogConcrete(self.temperature, logits=_check_classes(parameters, self))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample y ~ q(y | x) in the simplex; the site holds log y."""
        return sample_relaxed(self.posterior(self.net(x, *context)))


class Bernoulli(Guide):
    r"""The posterior of D bits, $q(z | x) = \prod_d \mathrm{Bernoulli}(z_d; \sigma(h_d(x)))$.

    The bits are drawn, so the network learns by the score function (`Trace_ELBO`).

    Args:
        net: maps x to D logits h.

    References:
        Mnih, Gregor, 2014. Neural Variational Inference and Learning in Belief Networks.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> with pyro.plate("data", 3):
        ...     Bernoulli(MLP(64, 20))(torch.zeros(3, 64)).shape
        torch.Size([3, 20])
    """

    def posterior(self, parameters: Tensor) -> dist.Distribution:
        """Return the bits of logits [..., D]."""
        return dist.Bernoulli(logits=parameters).to_event(1)
