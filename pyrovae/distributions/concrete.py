"""The Concrete distribution in logarithms (Maddison et al., 2017; Jang et al., 2017)."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical


class LogConcrete(ExpRelaxedCategorical, TorchDistributionMixin):
    r"""The logarithm of a relaxed one-hot vector, $\log y$ with y in the simplex.

    With Gumbel noise g and temperature T, $\log y = \mathrm{log\,softmax}((h + g) / T)$. Its
    density stays finite where y itself rounds to zero, and a ratio of densities is the same for
    y and for log y.

    References:
        Maddison, Mnih, Teh, 2017. The Concrete Distribution, appendix C.3.

    Example:
        >>> import torch
        >>> log_y = LogConcrete(torch.tensor(0.1), logits=torch.zeros(5, 3)).rsample()
        >>> torch.allclose(log_y.exp().sum(-1), torch.ones(5))
        True
    """
