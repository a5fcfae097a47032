r"""Likelihoods of counts 0, 1, 2, ..., stored as floats.

The network's output h parameterizes the means, $\mu_i = e^{h_i}$. With `library=True`, h are the
logits of proportions, and the last context is the library size l, the total count of each datum:

    mu_i = l softmax(h)_i,      l of shape [N] or [N, 1].

The means then scale with l, so that the latents model the proportions alone. Library sizes are
clamped below at 1e-8. For the guide, `nets.LogCounts` applies a network to log(1 + x).
"""

from __future__ import annotations

from typing import ClassVar, Final

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
"""The initial probability of an extra zero in a zero-inflated likelihood."""


class _AppendLibrary(nn.Module):
    """Append the library size to a network's output, without passing it to the network."""

    def __init__(self, net: nn.Module, owner: str) -> None:
        super().__init__()
        self.net, self.owner = net, owner

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        """Return [..., P + 1] for the network's output [..., P]."""
        context, size = split_library(context, z, self.owner)
        output = self.net(z, *context)
        size = size[(..., *[None] * (output.ndim - z.ndim))]
        lead = torch.broadcast_shapes(output.shape[:-1], size.shape[:-1])
        return torch.cat([output.expand(*lead, -1), size.to(output.dtype).expand(*lead, 1)], -1)


class _Counts(NetworkLikelihood):
    """Counts whose log-means, or proportions of a library size, are a network's output."""

    domain = constraints.nonnegative_integer
    shares: ClassVar[bool] = False
    """Whether the counts of a datum share a total, also without a library size."""

    def __init__(self, net: nn.Module, *, library: bool = False) -> None:
        super().__init__(_AppendLibrary(net, type(self).__name__) if library else net)
        self.library = library

    def _output(self, z: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output.

        Raises:
            ValueError: for images of proportions, which would be those of each row by itself.
        """
        output = super()._output(z, *context)
        if output.ndim > z.ndim and (self.library or self.shares):
            shape = (*output.shape[:-1], output.shape[-1] - self.library)
            raise ValueError(
                f"the proportions of {type(self).__name__} are of all counts of a datum, one "
                f"vector [..., D]; the network returned {shape} for latents {tuple(z.shape)}: end "
                f"it with torch.nn.Flatten({z.ndim - 1 - output.ndim}), and give x [N, D]"
            )
        return output

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split the output into the network's and the library size [..., 1], None without one."""
        if self.library:
            return parameters[..., :-1], parameters[..., -1:]
        return parameters, None

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logs of the means, which are logits of the proportions too.

        A pseudocount of 1/2 keeps them finite.
        """
        return ((x.sum(0) + 0.5) / (len(x) + 1)).log()


def log_mean(output: Tensor, size: Tensor | None) -> Tensor:
    """Return the log-means: h, or log(l softmax(h)) with a library size."""
    if size is None:
        return output
    return output.log_softmax(-1) + size.clamp(min=SMALLEST_LIBRARY).log()


class Poisson(_Counts):
    r"""Poisson counts, $p(x | z) = \prod_i \mathrm{Poisson}(x_i; \mu_i(z))$.

    Log-means above 30 (a mean of 1e13) are clamped to 30.

    Args:
        net: maps z to log-means, or to logits of proportions with `library=True`.
        library: whether the last context is the library size l, [N] or [N, 1]. The means are then
            $\mu_i = l\, \mathrm{softmax}(h)_i$, with h the network's output.

    Example:
        >>> import torch
        >>> import pyro
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Poisson
        >>> likelihood = Poisson(MLP(20, 400, 64), library=True)
        >>> likelihood.observation(torch.zeros(3, 20), torch.full((3,), 500.0)).mean.sum(-1)
        tensor([500.0000, 500.0000, 500.0000], grad_fn=...)
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Poisson distribution with the given log-means."""
        return LogPoisson(log_mean(*self.split(parameters)))


class _Dispersed(_Counts):
    """Counts with a learned concentration for each column."""

    def __init__(self, net: nn.Module, width: int, *, library: bool = False) -> None:
        super().__init__(net, library=library)
        if width < 1:
            raise ValueError(f"{type(self).__name__} needs at least one column; got {width}")
        self.log_concentration = nn.Parameter(torch.zeros(width))

    def dispersed(self, output: Tensor, size: Tensor | None) -> OverdispersedPoisson:
        """Return the negative binomial with the given means."""
        width = len(self.log_concentration)
        if output.shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__} with {width} columns needs {width} log-means; the network "
                f"returned {output.shape[-1]}"
            )
        mean = log_mean(output, size)
        return OverdispersedPoisson(mean, self.log_concentration.expand_as(mean))


class NegativeBinomial(_Dispersed):
    r"""Overdispersed counts, $\mathrm{Var}[x_i | z] = \mu_i + \mu_i^2 / r_i$.

    $$ p(x | z) = \prod_i \mathrm{NB}(x_i; \mu_i(z), r_i) $$

    The concentration $r_i$ (the inverse dispersion) is a learned parameter of each column,
    initially 1. The limit of large $r_i$ is `Poisson`.

    Args:
        net: maps z to log-means, or to logits of proportions with `library=True`.
        width: the number of columns.
        library: whether the last context is the library size l, [N] or [N, 1]. The means are then
            $\mu_i = l\, \mathrm{softmax}(h)_i$, with h the network's output.

    Raises:
        ValueError: if `width` is below 1, or the network's output does not have this width.

    References:
        Lopez, Regier, Cole, Jordan, Yosef, 2018. Deep generative modeling for single-cell
        transcriptomics.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import NegativeBinomial
        >>> likelihood = NegativeBinomial(MLP(20, 400, 64), 64)
        >>> likelihood.observation(torch.zeros(3, 20)).sample().shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the negative binomial with the given log-means."""
        return self.dispersed(*self.split(parameters))


class ZeroInflatedNegativeBinomial(_Dispersed):
    r"""A negative binomial that is replaced by 0 with probability $\pi_i(z)$.

    $$ p(x_i | z) = \pi_i\, 1[x_i = 0] + (1 - \pi_i)\, \mathrm{NB}(x_i; \mu_i, r_i) $$

    Args:
        net: maps z to log-means (as in `NegativeBinomial`), then logits of $\pi$.
        width: the number of columns, half the width of the network's output.
        library: whether the last context is the library size l, [N] or [N, 1]. The means are then
            $\mu_i = l\, \mathrm{softmax}(h)_i$, with h the network's output.

    Raises:
        ValueError: if `width` is below 1, or the network's output is not twice as wide.

    References:
        Lopez et al., 2018 (see `NegativeBinomial`).

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import ZeroInflatedNegativeBinomial
        >>> likelihood = ZeroInflatedNegativeBinomial(MLP(20, 400, 2 * 64), 64)
        >>> likelihood.observation(torch.zeros(3, 20)).sample().shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the zero-inflated negative binomial with the given log-means and gate logits."""
        output, size = self.split(parameters)
        log_means, gate_logits = blocks(output, 2, self).unbind(-2)
        return dist.ZeroInflatedDistribution(
            self.dispersed(log_means, size), gate_logits=gate_logits
        )

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return log-means and gates of 1%; with a library size, the means are 1% too small."""
        gates = torch.full_like(x[0], RAREST_GATE)
        return torch.cat([super().parameters_at(x) - torch.log1p(-gates), gates.logit()])


class Multinomial(_Counts):
    r"""Counts given their total n, $p(x | z, n) = \frac{n!}{\prod_i x_i!} \prod_i p_i(z)^{x_i}$.

    The total n may differ between data. A datum is scored at its own total. Samples and means
    need n, which is the last context with `library=True`.

    Args:
        net: maps z to the logits of p, one vector for each datum.
        library: whether the last context is the total n, [N] or [N, 1].

    Raises:
        ValueError: if the network returns images.

    References:
        Liang, Krishnan, Hoffman, Jebara, 2018. Variational Autoencoders for Collaborative
        Filtering.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Multinomial
        >>> likelihood = Multinomial(MLP(20, 400, 64), library=True)
        >>> likelihood.observation(torch.zeros(3, 20), torch.tensor([5, 0, 70])).sample().sum(-1)
        tensor([ 5.,  0., 70.])
    """

    shares = True

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the multinomial with the given logits and totals."""
        logits, size = self.split(parameters)
        return TotalsMultinomial(logits, None if size is None else size.squeeze(-1))
