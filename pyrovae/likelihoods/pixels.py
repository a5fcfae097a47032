"""Likelihoods of integer pixels 0, ..., L - 1, stored as floats.

They give probabilities of the pixels, not densities, so that their bits per dimension
(`bounds.bits_per_dimension`) are comparable with those of any other model of the same pixels. For
the encoder, `nets.Rescaled` maps pixels up to 255 to [-1, 1]. `(255 * x).round()` restores 8-bit
pixels from intensities in [0, 1].
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.domains import check_domain
from pyrovae.distributions.discretized import DiscretizedLogistic, Levels
from pyrovae.distributions.mixtures import check_components
from pyrovae.likelihoods.base import NetworkLikelihood, blocks
from pyrovae.nets import positive, unconstrained

__all__ = ["Categorical", "DiscretizedLogisticMixture"]


def _levels(number: int, owner: nn.Module) -> constraints.Constraint:
    if number < 2:
        raise ValueError(
            f"{type(owner).__name__} needs at least two levels of a pixel; got {number}"
        )
    return constraints.integer_interval(0, number - 1)


class Categorical(NetworkLikelihood):
    r"""Categorical pixels, $P(x_i = c | z) = \mathrm{softmax}_c(h_{ci}(z))$.

    Args:
        net: maps z to `classes` blocks of D logits: those of class 0, then those of class 1, ...
            (the channels of a `ConvDecoder`). The output layer is `classes` times as wide as x.
        classes: the number of levels, 256 for 8-bit pixels.

    Raises:
        ValueError: if there are fewer than two classes, or the width of the network's output is
            not a multiple of `classes`.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, 2016. Pixel Recurrent Neural Networks.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Categorical
        >>> likelihood = Categorical(MLP(20, 100, 17 * 64), classes=17)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 64])
    """

    def __init__(self, net: nn.Module, *, classes: int = 256) -> None:
        super().__init__(net)
        self.domain, self.classes = _levels(classes, self), classes

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the distribution over levels with the given logits."""
        logits = blocks(parameters, self.classes, self)
        return Levels(logits.transpose(-1, -2))

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return the log-frequencies, with a pseudocount of 1/C per class to keep them finite.

        Raises:
            ValueError: if x has values that are not classes.
        """
        check_domain(x, self.domain, type(self).__name__)
        width = x.shape[-1]
        cells = x.long() * width + torch.arange(width, device=x.device)
        counts = torch.bincount(cells.flatten(), minlength=self.classes * width)
        return torch.log((counts + 1 / self.classes) / (len(x) + 1)).to(x.dtype)


class DiscretizedLogisticMixture(NetworkLikelihood):
    r"""Pixels with a discretized mixture of logistics, with few parameters per pixel.

    $$ P(x_i | z) = \sum_m w_{mi} \left[ \sigma\!\left(\frac{x_i + 1/2 - l_{mi}}{s_{mi}}\right)
       - \sigma\!\left(\frac{x_i - 1/2 - l_{mi}}{s_{mi}}\right) \right] $$

    The levels 0 and L - 1 include the tails. Channels are independent given z.

    Args:
        net: maps z to 3 blocks of `components` blocks of D numbers: logits of the weights w,
            locations l, unconstrained scales s (see `nets.positive`). Locations and scales are in
            units of half the range, in which the levels 0 to L - 1 are mapped to [-1, 1].
        components: the number of components of each mixture.
        levels: L, 256 for 8-bit pixels.

    Raises:
        ValueError: if `components` is below 1, `levels` is below 2, or the width of the network's
            output is not a multiple of 3 `components`.

    References:
        Salimans, Karpathy, Chen, Kingma, 2017. PixelCNN++ (which couples the channels).

    Example:
        >>> import pyro, torch
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import DiscretizedLogisticMixture
        >>> likelihood = DiscretizedLogisticMixture(MLP(20, 400, 3 * 5 * 784), components=5)
        >>> with pyro.plate("data", 3):
        ...     likelihood(torch.zeros(3, 20)).shape
        torch.Size([3, 784])
    """

    def __init__(self, net: nn.Module, *, components: int = 5, levels: int = 256) -> None:
        super().__init__(net)
        check_components(self, components)
        self.domain, self.components, self.levels = _levels(levels, self), components, levels

    @property
    def outputs(self) -> int:
        """3 for each component."""
        return 3 * self.components

    def noise(self, parameters: Tensor) -> dist.Distribution:
        """Return the mixture of discretized logistic distributions."""
        numbers = blocks(parameters, 3 * self.components, self)
        logits, loc, raw = numbers.transpose(-1, -2).chunk(3, dim=-1)
        half = (self.levels - 1) / 2
        rounded = DiscretizedLogistic(half * (1 + loc), half * positive(raw), self.levels)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), rounded)

    def parameters_at(self, x: Tensor) -> Tensor:
        """Return equal weights, locations at the mean, and scales from the standard deviation."""
        half = (self.levels - 1) / 2
        loc = x.mean(0) / half - 1
        scale = (math.sqrt(3) / math.pi / half) * x.std(0, correction=0).clamp_min(0.5)
        numbers = torch.stack([torch.zeros_like(loc), loc, unconstrained(scale)])
        return numbers.repeat_interleave(self.components, dim=0).flatten()
