"""An autoregressive likelihood of binary images."""

from __future__ import annotations

import math
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.likelihoods.base import Likelihood
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.nets import PixelCNN

__all__ = ["AutoregressiveBernoulli", "BernoulliChain"]


class BernoulliChain(dist.TorchDistribution):
    r"""An autoregressive distribution of binary pixels.

    $$ p(x) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(f_i(x_{<i}, h))) $$

    Scoring takes one pass of the network, sampling D passes, one per pixel.

    Args:
        net: the network f, which returns the logits f(x, h).
        features: h, [..., F * D]; the leading axes are the batch shape.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods.autoregressive import BernoulliChain
        >>> from pyrovae.nets import PixelCNN
        >>> net = PixelCNN((1, 3, 3), 2)
        >>> chain = BernoulliChain(net, torch.zeros(5, 2 * 9))
        >>> chain.batch_shape, chain.event_shape, chain.log_prob(torch.ones(9)).shape
        (torch.Size([5]), torch.Size([9]), torch.Size([5]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self, net: PixelCNN, features: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.net, self.features = net, features
        event = torch.Size([math.prod(net.shape)])
        super().__init__(features.shape[:-1], event, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BernoulliChain:
        """Return the distribution with a larger batch shape."""
        features = self.features.expand(*batch_shape, self.features.shape[-1])
        return BernoulliChain(self.net, features, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of images [..., D], in nats."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.net(value, self.features)
        scores: Tensor = dist.Bernoulli(logits=logits, validate_args=False).log_prob(value)
        return scores.sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample images [..., D] pixel by pixel, without gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        x = torch.zeros(shape, dtype=self.features.dtype, device=self.features.device)
        for pixel in range(shape[-1]):
            logits = self.net(x, self.features)[..., pixel]
            x[..., pixel] = torch.bernoulli(logits.sigmoid())
        return x

    @property
    def mean(self) -> Tensor:
        r"""An unbiased estimate of the mean from one sample, which differs at each call.

        It is the conditional probability of each pixel of a sampled image,
        $E_x\, p(x_i = 1 | x_{<i}) = E x_i$. The exact mean is a sum over all images.
        """
        return self.net(self.sample(), self.features).sigmoid()


class AutoregressiveBernoulli(Likelihood):
    r"""Binary images, $p(x | z) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(f_i(x_{<i}, h(z))))$.

    The autoregressive network models local structure, and the latents global structure. If the
    network is expressive enough to model the data alone, the posterior may collapse. Sampling,
    and with it the mean, takes one pass per pixel.

    Args:
        features: maps (z, *context) to feature maps h [..., F * H * W].
        pixels: the network f, which maps an image and feature maps to logits.

    References:
        Gulrajani et al., 2017. PixelVAE: A Latent Variable Model for Natural Images.
        Chen et al., 2017. Variational Lossy Autoencoder (on posterior collapse).

    Example:
        >>> import torch
        >>> import pyro
        >>> from pyrovae.nets import ConvDecoder
        >>> from pyrovae.likelihoods import AutoregressiveBernoulli
        >>> from pyrovae.nets import PixelCNN
        >>> features = ConvDecoder(20, (4, 28, 28))
        >>> likelihood = AutoregressiveBernoulli(features, PixelCNN((1, 28, 28), 4))
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20), torch.ones(3, 784)).shape
        torch.Size([3, 784])
    """

    domain = constraints.boolean

    def __init__(self, features: nn.Module, pixels: PixelCNN) -> None:
        super().__init__()
        self.features, self.pixels = features, pixels

    def start_at_mean(self, x: Tensor) -> Self:
        """Set the last bias of the pixel network to the logits of the data's mean.

        Args:
            x: data [N, D], binary or intensities.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: as `NetworkLikelihood.start_at_mean`.
        """
        Bernoulli(self.pixels).start_at_mean(x)
        return self

    def observation(self, z: Tensor, *context: Tensor) -> BernoulliChain:
        """Return p(x | z) with the leading axes of z as batch shape and event shape [D]."""
        return BernoulliChain(self.pixels, self.features(z, *context))
