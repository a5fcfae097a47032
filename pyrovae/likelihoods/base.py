"""What every likelihood of the library shares: a network, a distribution made of its output."""

from __future__ import annotations

import abc
from typing import Self, final

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.domains import check_domain, check_finite
from pyrovae.nets import set_last_bias
from pyrovae.parts import Part

__all__ = ["Likelihood", "NetworkLikelihood", "blocks"]


class Likelihood(Part):
    """Sample or score the site "x" from the distribution p(x | z) that a subclass makes.

    Attributes:
        domain: where data lie, as a `torch.distributions.constraints` object.
    """

    domain: constraints.Constraint

    @abc.abstractmethod
    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z) with the batch shape of z's leading axes, the rest its event."""

    @final  # type: ignore[misc]
    def forward(self, z: Tensor, x: Tensor | None = None, *context: Tensor) -> Tensor:
        """Score x, or draw it where it is None."""
        sample: Tensor = pyro.sample("x", self.observation(z, *context), obs=x)
        return sample


class NetworkLikelihood(Likelihood):
    """Read the parameters of p(x | z) off one network.

    Args:
        net: maps (z, *context) to the distribution's parameters.
    """

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
            x: data [N, D] as the likelihood scores them; to a Bernoulli also intensities.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: for data that are empty, not finite or outside the likelihood's domain; if
                the network has no last bias as wide as its output (or one per channel).

        References:
            Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders (their code).

        Example:
            >>> import torch
            >>> from pyrovae.likelihoods import Bernoulli
            >>> from pyrovae.nets import MLP
            >>> x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
            >>> Bernoulli(MLP(3, 4, 2)).start_at_mean(x).net.layers[-1].bias.data
            tensor([-1.6094,  1.6094])
        """
        check_finite(x)
        binary = self.domain is constraints.boolean
        check_domain(x, constraints.unit_interval if binary else self.domain, type(self).__name__)
        set_last_bias(self.net, self.parameters_at(x))
        return self

    @final
    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z); the axes that x has beyond the leading ones of z are its event."""
        noise = self.noise(self.net(z, *context))
        declared: dist.Distribution = noise.to_event(len(noise.batch_shape) - (z.ndim - 1))
        return declared


def blocks(parameters: Tensor, number: int, owner: nn.Module) -> Tensor:
    """Cut a network's output [..., number * D] into `number` blocks, [..., number, D].

    Block by block, not entry by entry, is how the channels of a `ConvDecoder` lie.

    Raises:
        ValueError: naming the owner, if the output is no multiple of `number`.

    Example:
        >>> import torch
        >>> loc, raw = blocks(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2, nn.Identity()).unbind(-2)
        >>> loc, raw
        (tensor([1., 2.]), tensor([3., 4.]))
    """
    if parameters.shape[-1] % number:
        raise ValueError(
            f"{type(owner).__name__} expected a network with a multiple of {number} outputs, "
            f"{number} for each x_i; got {parameters.shape[-1]}"
        )
    return parameters.unflatten(-1, (number, -1))
