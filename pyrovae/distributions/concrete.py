"""The Concrete distribution over log-probabilities (Maddison, Mnih, Teh, 2017)."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

__all__ = ["LogConcrete", "LogRatios", "log_simplex"]


class _LogSimplex(constraints.Constraint):
    """The logarithms of vectors of probabilities, [..., C]."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return whether the probabilities sum to one."""
        return value.logsumexp(-1).abs() < 1e-3


log_simplex = _LogSimplex()


class LogRatios(Transform):
    r"""The bijection from C - 1 log-ratios to C log-probabilities, $\log\,softmax(u_1, ..., 0)$.

    The density of `LogConcrete` is one over the log-ratios, so that the bijection has no Jacobian.
    """

    domain = constraints.real_vector
    codomain = log_simplex
    bijective = True

    def _call(self, u: Tensor) -> Tensor:
        return torch.cat([u, torch.zeros_like(u[..., :1])], -1).log_softmax(-1)

    def _inverse(self, log_y: Tensor) -> Tensor:
        return log_y[..., :-1] - log_y[..., -1:]

    def log_abs_det_jacobian(self, u: Tensor, log_y: Tensor) -> Tensor:
        """Return zeros, [...]."""
        return torch.zeros_like(log_y[..., 0])

    def forward_shape(self, shape: Any) -> Size:
        """Return the shape of log-probabilities, given that of log-ratios."""
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> Size:
        """Return the shape of log-ratios, given that of log-probabilities."""
        return Size((*shape[:-1], shape[-1] - 1))


@biject_to.register(log_simplex)
@transform_to.register(log_simplex)
def _log_ratios(_: constraints.Constraint) -> LogRatios:
    return LogRatios()


class LogConcrete(ExpRelaxedCategorical, TorchDistributionMixin):
    r"""The distribution of the logarithm of a relaxed one-hot vector y.

    $$ \log y = \mathrm{log\,softmax}((h + g) / T) $$

    with logits h, Gumbel noise g and temperature T. The density of log y stays finite where y
    underflows to zero; density ratios are the same for y and log y. It is a density over the
    C - 1 log-ratios $\log (y_i / y_C)$.

    Args:
        temperature: T, positive.
        logits: h, [..., C].

    References:
        Jang, Gu, Poole, 2017. Categorical Reparameterization with Gumbel-Softmax.
        Maddison, Mnih, Teh, 2017. The Concrete Distribution, appendix C.3.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import LogConcrete
        >>> log_y = LogConcrete(torch.tensor(0.1), logits=torch.zeros(5, 3)).rsample()
        >>> torch.allclose(log_y.exp().sum(-1), torch.ones(5))
        True
    """

    support = log_simplex  # type: ignore[assignment]  # torch declares a larger one
