"""The VampPrior: a mixture of the guide's posteriors at learned pseudo-inputs."""

from __future__ import annotations

from typing import Any, Final, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data.domains import check_finite
from pyrovae.distributions.mixtures import check_components, mixture
from pyrovae.priors.base import Prior
from pyrovae.types import Program

__all__ = ["MARGIN", "STEEPNESS", "VampPrior"]

MARGIN: Final = 0.1
"""The least initial distance of a pseudo-input from the ends of the range, as a share of it."""

STEEPNESS: Final = 16.0
"""The factor of the parameters inside the sigmoid.

At the learning rates of networks, binary pixels would otherwise hardly move in a whole training.
"""


class VampPrior(Prior):
    r"""Sample a site "z" from a mixture of the guide's posteriors at C learned pseudo-inputs.

    $$ p(z) = \frac1C \sum_{c=1}^C q(z | u_c) $$

    The pseudo-inputs are parameterized as $u_c = l + (h - l)\, \sigma(16 v_c)$, with l and h the
    minimum and maximum of each coordinate of the data, so that they stay in the data's range, and
    move in it at the learning rates of networks. Call `start_at_data` to initialize them before
    the prior is used.

    Give the same guide to the VAE, so that prior and posterior share one encoder. With a
    diagonal normal posterior, the mixture is scored by two matrix products and costs little more
    than the encoder at C inputs. Any other posterior needs memory for C values per datum and
    latent dimension.

    Args:
        guide: the guide of the VAE; the prior calls its network without context.
        components: the number C of pseudo-inputs.

    Raises:
        ValueError: if the guide has no network and distribution, `components` is below 1, or the
            prior is used before it has pseudo-inputs.

    References:
        Tomczak, Welling, 2018. VAE with a VampPrior.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.bernoulli(torch.full((600, 64), 0.3))
        >>> guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2))
        >>> vae = pv.VAE(
        ...     prior=pv.priors.VampPrior(guide, 500).start_at_data(x),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=guide,
        ... )
        >>> vae.prior.pseudo_inputs.shape, vae.sample(3).shape
        (torch.Size([500, 64]), torch.Size([3, 64]))
    """

    guide: Any
    low: Tensor
    high: Tensor
    logits: Tensor

    def __init__(self, guide: Program, components: int) -> None:
        super().__init__()
        amortized = callable(getattr(guide, "distribution", None)) and hasattr(guide, "net")
        amortized = amortized and not isinstance(guide, Prior)
        if not (isinstance(guide, nn.Module) and amortized):
            raise ValueError(
                "VampPrior takes the guide of the VAE, to share its encoder: a "
                "pyrovae.guides.Guide such as MeanFieldNormal, or a module with `net` and "
                f"`distribution`; got {type(guide).__name__}"
            )
        check_components(self, components)
        self.guide = guide
        self.unconstrained = nn.Parameter(torch.zeros(components, 0))
        self.register_buffer("low", torch.zeros(0))
        self.register_buffer("high", torch.zeros(0))
        self.register_buffer("logits", torch.zeros(components))
        self.register_load_state_dict_pre_hook(_take_width)

    @torch.no_grad()
    def start_at_data(self, x: Tensor) -> Self:
        r"""Initialize the pseudo-inputs to C random rows of the data, and store the data's range.

        Rows are shrunk toward the middle of the range by one tenth of it at either end, so that
        the sigmoid has a gradient at values that are at an end, such as binary pixels.

        Args:
            x: data [N, D] with N >= C: binary, intensities, or real.

        Returns:
            The prior itself.

        Raises:
            ValueError: if there are fewer data than pseudo-inputs, x is not [N, D] or not finite,
                or its width is not that of the guide's network.
        """
        check_finite(x)
        components = len(self.unconstrained)
        if x.ndim != 2 or len(x) < components:
            raise ValueError(
                f"VampPrior initializes {components} pseudo-inputs to as many rows of x [N, D], "
                f"N >= {components}; got {tuple(x.shape)}. Give more data or fewer components"
            )
        x = x.to(next(self.guide.parameters(), self.unconstrained))
        self.guide.distribution(self.guide.net(x[:1]))
        low, high = x.aminmax(dim=0)
        chosen = x[torch.randperm(len(x))[:components].to(x.device)]
        place = ((chosen - low) / (high - low)).nan_to_num(0.5)
        self.low.data, self.high.data = low, high
        self.unconstrained.data = (MARGIN + (1 - 2 * MARGIN) * place).logit() / STEEPNESS
        return self

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, [C, D]. It raises a ValueError before `start_at_data`."""
        if not len(self.low):
            raise ValueError(
                "VampPrior has no pseudo-inputs yet: initialize them to training data with "
                "prior.start_at_data(x)"
            )
        place = (STEEPNESS * self.unconstrained).sigmoid()
        return self.low + (self.high - self.low) * place

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the mixture of posteriors; the context is ignored."""
        return mixture(self.logits, self.guide.distribution(self.guide.net(self.pseudo_inputs)))


def _take_width(prior: VampPrior, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Resize empty pseudo-inputs to those of a state dict before it is loaded."""
    for name in ("unconstrained", "low", "high"):
        tensor, saved = getattr(prior, name), state.get(prefix + name)
        if saved is not None and not tensor.numel():
            tensor.data = tensor.new_empty(saved.shape)
