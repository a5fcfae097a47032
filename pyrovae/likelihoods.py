"""Likelihoods: Pyro programs that score x at the site "x" given what the prior returned.

A likelihood is called as `likelihood(z, x, *context)` inside the plate over data, with x None
when x is to be drawn. The classes here ask a network for the parameters; the trailing axes that
x has beyond the latents' leading ones become the event.

A likelihood declares its `domain`, a `torch.distributions.constraints` object that `fit` and
`evaluate` hold the data against before the first step.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, Self, final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.nets import positive, set_last_bias
from pyrovae.parts import Part


class Likelihood(Part):
    """Sample or score the site "x" from the distribution that a subclass makes.

    Args:
        net: maps (z, *context) to the distribution's parameters.
    """

    domain: ClassVar[constraints.Constraint]

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @abc.abstractmethod
    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return p(x | z), every axis a batch axis, from the network's output."""

    @abc.abstractmethod
    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the network's output at which the location is the mean of data [N, D]."""

    @final
    def start_at_mean(self, x: Tensor) -> Self:
        r"""Set the last bias of the network so that p(x | z) starts at the data's mean.

        The network then learns how a datum differs from the mean, not the mean itself: on MNIST
        the same training ends two nats better.

        Args:
            x: data [N, D], binary or intensities.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: if the network has no last bias as wide as its output (or one per channel).

        References:
            Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders (their code).

        Example:
            >>> from pyrovae.nets import MLP
            >>> x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
            >>> Bernoulli(MLP(3, 4, 2)).start_at_mean(x).net.layers[-1].bias.data
            tensor([-1.6094,  1.6094])
        """
        set_last_bias(self.net, self.parameters_at(x))
        return self

    @final  # type: ignore[misc]
    def forward(self, z: Tensor, x: Tensor | None = None, *context: Tensor) -> Tensor:
        """Score x, or draw it where it is None."""
        noise = self.noise(self.net(z, *context))
        event_dim = len(noise.batch_shape) - (z.ndim - 1)
        sample: Tensor = pyro.sample("x", noise.to_event(event_dim), obs=x)
        return sample


class Bernoulli(Likelihood):
    r"""Binary data, $p(x | z) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(h_i(z)))$.

    Args:
        net: maps z [..., D] to logits h.

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = Bernoulli(MLP(20, 400, 784))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    domain = constraints.boolean

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Bernoulli of the given logits."""
        return dist.Bernoulli(logits=parameters)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the logits of the mean; half a datum of each kind keeps them finite."""
        return ((x.sum(0) + 0.5) / (len(x) + 1)).logit()


class _LocationScale(Likelihood):
    """A location from the network, and a scale: fixed, learned, or from the network too."""

    domain = constraints.real

    def __init__(
        self, net: nn.Module, *, scale: float | Literal["learned", "network"] = "learned"
    ) -> None:
        super().__init__(net)
        if isinstance(scale, str) and scale not in ("learned", "network"):
            raise ValueError(f"scale is a positive number, 'learned' or 'network'; got '{scale}'")
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise ValueError(f"a fixed scale is positive and finite; got {scale}")
        self.scale = scale
        if scale == "learned":
            self.raw_scale = nn.Parameter(torch.tensor(0.5413))
        elif not isinstance(scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the mean, and zeros for the scales where the network gives them."""
        mean = x.mean(0)
        return torch.cat([mean, torch.zeros_like(mean)]) if self.scale == "network" else mean

    def location_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Split the network's output where it gives both, else add the one scale."""
        if self.scale == "network":
            if parameters.shape[-1] % 2:
                raise ValueError(
                    f"{type(self).__name__} expected a network with an even number of outputs, a "
                    f"location and a scale for each x_i; got {parameters.shape[-1]}"
                )
            loc, raw = parameters.chunk(2, dim=-1)
            return loc, positive(raw)
        if self.scale == "learned":
            return parameters, positive(self.raw_scale)
        return parameters, self.get_buffer("fixed_scale")


class Normal(_LocationScale):
    r"""Real data, $p(x | z) = N(x; m(z), s^2 I)$.

    Args:
        net: maps z to means, or to means and then unconstrained scales with `scale="network"`.
        scale: a fixed positive number; "learned", one scalar for all of x, starting at 1; or
            "network", one for each x_i as a function of z.

    Raises:
        ValueError: if `scale` is none of these.

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = Normal(MLP(20, 400, 2 * 64), scale="network")
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the normal with the network's means."""
        return dist.Normal(*self.location_and_scale(parameters))


class Laplace(_LocationScale):
    r"""Real data with heavier tails, $p(x | z) = \prod_i \exp(-|x_i - m_i(z)| / s) / 2s$.

    Args:
        net: maps z to medians, or to medians and unconstrained scales with `scale="network"`.
        scale: as in `Normal`.

    Example:
        >>> from pyrovae.nets import MLP
        >>> likelihood = Laplace(MLP(20, 400, 64), scale=0.1)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the Laplace distribution with the network's medians."""
        return dist.Laplace(*self.location_and_scale(parameters))
