r"""Likelihoods of counts 0, 1, 2, ..., as floats.

The network gives the logarithms h of the means, $\mu_i = e^{h_i}$. With `library=True` it gives
logits of proportions, and the last context is the library size l, the total count of each datum:

    mu_i = l softmax(h)_i,      l of shape [N] or [N, 1].

The mean then follows l, and the latents are left with what a datum is made of. A size of 0 counts
as 1e-8. In the guide, `nets.LogCounts` shows log(1 + x) to a network.
"""

from __future__ import annotations

from typing import Final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.distributions.counts import LogPoisson, OverdispersedPoisson, TotalsMultinomial
from pyrovae.likelihoods.base import NetworkLikelihood, blocks
from pyrovae.nets.inputs import split_library

__all__ = [
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "log_mean",
]

SMALLEST_LIBRARY: Final = 1e-8
RAREST_GATE: Final = 0.01
"""The share of extra zeros at which a zero-inflated likelihood starts."""


class _AppendLibrary(nn.Module):
    """Give the library size, which the network does not see, after the network's output."""

    def __init__(self, net: nn.Module, owner: str) -> None:
        super().__init__()
        self.net, self.owner = net, owner

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        """Return [..., P + 1] for the network's [..., P]."""
        context, size = split_library(context, z, self.owner)
        output = self.net(z, *context)
        lead = torch.broadcast_shapes(output.shape[:-1], size.shape[:-1])
        return torch.cat([output.expand(*lead, -1), size.to(output.dtype).expand(*lead, 1)], -1)


class _Counts(NetworkLikelihood):
    """A network of log-means, or of proportions that a library size multiplies."""

    domain = constraints.nonnegative_integer

    def __init__(self, net: nn.Module, *, library: bool = False) -> None:
        super().__init__(_AppendLibrary(net, type(self).__name__) if library else net)
        self.library = library

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take the library size [..., 1] off the network's output, if it is there."""
        if self.library:
            return parameters[..., :-1], parameters[..., -1:]
        return parameters, None


def log_mean(output: Tensor, size: Tensor | None) -> Tensor:
    """Return h, or log(l softmax(h)) where there is a library size."""
    if size is None:
        return output
    return output.log_softmax(-1) + size.clamp(min=SMALLEST_LIBRARY).log()


def _log_means(x: Tensor) -> Tensor:
    """Return the logarithms of the columns' means; half a count keeps them finite."""
    return ((x.sum(0) + 0.5) / (len(x) + 1)).log()


class Poisson(_Counts):
    r"""Counts whose variance is their mean, $p(x | z) = \prod_i \mathrm{Poisson}(x_i; \mu_i(z))$.

    Log-means above 30, a mean of 1e13, count as 30.

    Args:
        net: maps z to log-means, or to logits of proportions with `library=True`.
        library: whether the last context is the library size (see `likelihoods.counts`).

    Example:
        >>> import pyro
        >>> from pyrovae.nets import MLP
        >>> likelihood = Poisson(MLP(20, 400, 64), library=True)
        >>> likelihood.observation(torch.zeros(3, 20), torch.full((3,), 500.0)).mean.sum(-1)
        tensor([500.0000, 500.0000, 500.0000], grad_fn=...)
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Poisson distribution of the given log-means."""
        return LogPoisson(log_mean(*self.split(parameters)))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the log-means, or logits of proportions."""
        return _log_means(x)


class _Dispersed(_Counts):
    """Counts with one learned dispersion for each column."""

    def __init__(self, net: nn.Module, width: int, *, library: bool = False) -> None:
        super().__init__(net, library=library)
        if width < 1:
            raise ValueError(f"{type(self).__name__} takes one column or more; got {width}")
        self.log_concentration = nn.Parameter(torch.zeros(width))

    def dispersed(self, output: Tensor, size: Tensor | None) -> OverdispersedPoisson:
        """Return the negative binomial around the means."""
        width = len(self.log_concentration)
        if output.shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__} of {width} columns takes as many log-means; the network "
                f"gave {output.shape[-1]}"
            )
        mean = log_mean(output, size)
        return OverdispersedPoisson(mean, self.log_concentration.expand_as(mean))


class NegativeBinomial(_Dispersed):
    r"""Counts with more variance than their mean, $\mathrm{Var}[x_i | z] = \mu_i + \mu_i^2 / r_i$.

    The concentration $r_i$ (the inverse dispersion) is a parameter of the column, starting at 1;
    as it grows the likelihood becomes `Poisson`.

    Args:
        net: maps z to log-means, or to logits of proportions with `library=True`.
        width: the number of columns.
        library: whether the last context is the library size (see `likelihoods.counts`).

    Raises:
        ValueError: if the network's output has another width.

    References:
        Lopez, Regier, Cole, Jordan, Yosef, 2018. Deep generative modeling for single-cell
        transcriptomics.

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = NegativeBinomial(MLP(20, 400, 64), 64)
        >>> likelihood.observation(torch.zeros(3, 20)).sample().shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the negative binomial of the given log-means."""
        return self.dispersed(*self.split(parameters))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the log-means, or logits of proportions."""
        return _log_means(x)


class ZeroInflatedNegativeBinomial(_Dispersed):
    r"""A negative binomial that is replaced by 0 with probability $\pi_i(z)$.

    $$ p(x_i | z) = \pi_i\, 1[x_i = 0] + (1 - \pi_i)\, \mathrm{NB}(x_i; \mu_i, r_i) $$

    Args:
        net: maps z to log-means (as in `NegativeBinomial`), then logits of $\pi$.
        width: the number of columns, half that of the network's outputs.
        library: whether the last context is the library size (see `likelihoods.counts`).

    Raises:
        ValueError: if the network's output has another width.

    References:
        Lopez et al., 2018 (see `NegativeBinomial`).

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = ZeroInflatedNegativeBinomial(MLP(20, 400, 2 * 64), 64)
        >>> likelihood.observation(torch.zeros(3, 20)).sample().shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the zero-inflated negative binomial of log-means and gates."""
        output, size = self.split(parameters)
        log_means, gate_logits = blocks(output, 2, self).unbind(-2)
        return dist.ZeroInflatedDistribution(
            self.dispersed(log_means, size), gate_logits=gate_logits
        )

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the log-means at gates of 1%; under a library size, 1% too small."""
        gates = torch.full_like(x[0], RAREST_GATE)
        return torch.cat([_log_means(x) - torch.log1p(-gates), gates.logit()])


class Multinomial(_Counts):
    r"""The kinds of n items, $p(x | z, n) = \frac{n!}{\prod_i x_i!} \prod_i p_i(z)^{x_i}$.

    The total n may differ from datum to datum. A datum is scored at its own total; a draw and a
    mean need n from elsewhere, which is the last context with `library=True`.

    Args:
        net: maps z to the logits of p.
        library: whether the last context is the total n, [N] or [N, 1].

    References:
        Liang, Krishnan, Hoffman, Jebara, 2018. Variational Autoencoders for Collaborative
        Filtering.

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = Multinomial(MLP(20, 400, 64), library=True)
        >>> likelihood.observation(torch.zeros(3, 20), torch.tensor([5, 0, 70])).sample().sum(-1)
        tensor([ 5.,  0., 70.])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the multinomial of the given logits and totals."""
        logits, size = self.split(parameters)
        return TotalsMultinomial(logits, None if size is None else size.squeeze(-1))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the log-means, or logits of proportions."""
        return _log_means(x)
