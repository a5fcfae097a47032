"""The Concrete distribution over log-probabilities (Maddison, Mnih, Teh, 2017)."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

__all__ = ["LogConcrete"]


class LogConcrete(ExpRelaxedCategorical, TorchDistributionMixin):
    r"""The distribution of the logarithm of a relaxed one-hot vector y.

    $$ \log y = \mathrm{log\,softmax}((h + g) / T) $$

    with logits h, Gumbel noise g and temperature T. The density of log y stays finite where y
    underflows to zero; density ratios are the same for y and log y.

    Args:
        temperature: T, positive.
        logits: h, [..., C].

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution, appendix C.3.

    Example:
        >>> import torch
        >>> log_y = LogConcrete(torch.tensor(0.1), logits=torch.zeros(5, 3)).rsample()
        >>> torch.allclose(log_y.exp().sum(-1), torch.ones(5))
        True
    """
