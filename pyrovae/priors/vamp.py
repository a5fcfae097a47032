"""The VampPrior: a mixture of posteriors."""

from __future__ import annotations

from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data.domains import check_finite
from pyrovae.distributions.mixtures import check_components, mixture
from pyrovae.priors.base import Prior

__all__ = ["MARGIN", "VampPrior"]

MARGIN = 0.01
"""How far from the ends of the data's range, as a part of it, a pseudo-input starts at least."""


class VampPrior(Prior):
    r"""Sample a site "z" from a mixture of the guide's own posteriors at K learned inputs.

    $$ p(z) = \frac1K \sum_{k=1}^K q(z | u_k) $$

    The pseudo-inputs $u_k$ are trained, and stay in the data's range,
    $u_k = l + (h - l)\, \sigma(v_k)$ for the least and greatest values l and h of each
    coordinate. They start at data: call `start_at_data` before anything else.

    Give the same guide to the VAE, so that prior and posterior share one encoder. A guide with a
    diagonal normal is scored by two matrix products, so that the prior costs little beyond the
    encoder at K inputs; any other posterior holds K numbers or more for each datum and latent.

    Args:
        guide: the guide of the VAE; the prior calls it without context.
        components: K.

    Raises:
        ValueError: if the guide does not make its posterior of a network's output, `components`
            is below 1, or the prior runs before it has pseudo-inputs.

    References:
        Tomczak, Welling, 2018. VAE with a VampPrior.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.bernoulli(torch.full((600, 64), 0.3))
        >>> guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2))
        >>> vae = pv.VAE(
        ...     prior=VampPrior(guide, 500).start_at_data(x),
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

    def __init__(self, guide: Any, components: int) -> None:
        super().__init__()
        amortized = callable(getattr(guide, "posterior", None)) and hasattr(guide, "net")
        if not (isinstance(guide, nn.Module) and amortized):
            raise ValueError(
                "VampPrior takes the guide of the VAE, to share its encoder: one that makes its "
                "posterior of a network's output, such as pyrovae.guides.MeanFieldNormal or a "
                f"pyrovae.guides.Guide of your own; got {type(guide).__name__}"
            )
        check_components(self, components)
        self.guide = guide
        self.raw = nn.Parameter(torch.zeros(components, 0))
        self.register_buffer("low", torch.zeros(0))
        self.register_buffer("high", torch.zeros(0))
        self.register_buffer("logits", torch.zeros(components))
        self.register_load_state_dict_pre_hook(_take_width)

    @torch.no_grad()
    def start_at_data(self, x: Tensor) -> Self:
        r"""Put the pseudo-inputs at K rows of data, drawn at random, and take the data's range.

        Values at an end of the range start one hundredth of it inside, where the sigmoid has a
        slope.

        Args:
            x: data [N, D] with N >= K: binary, intensities, or real.

        Returns:
            The prior itself.

        Raises:
            ValueError: if there are fewer data than pseudo-inputs, if x is not [N, D] or not
                finite, or if it is not as wide as the guide's network takes.
        """
        check_finite(x)
        components = len(self.raw)
        if x.ndim != 2 or len(x) < components:
            raise ValueError(
                f"VampPrior starts {components} pseudo-inputs at as many data, x [N, D] with N >= "
                f"{components}; got {tuple(x.shape)}. Give more data, or ask for fewer components"
            )
        x = x.to(next(self.guide.parameters(), self.raw))
        self.guide.posterior(self.guide.net(x[:1]))
        low, high = x.aminmax(dim=0)
        chosen = x[torch.randperm(len(x))[:components].to(x.device)]
        place = ((chosen - low) / (high - low)).nan_to_num(0.5)
        self.low.data, self.high.data = low, high
        self.raw.data = (MARGIN + (1 - 2 * MARGIN) * place).logit()
        return self

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, [K, D]."""
        if not len(self.low):
            raise ValueError(
                "VampPrior has no pseudo-inputs yet: start them at the training data with "
                "prior.start_at_data(x)"
            )
        return self.low + (self.high - self.low) * self.raw.sigmoid()

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return the mixture of posteriors; the context does not matter."""
        return mixture(self.logits, self.guide.posterior(self.guide.net(self.pseudo_inputs)))


def _take_width(prior: VampPrior, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for pseudo-inputs that were saved where there are none yet."""
    for name in ("raw", "low", "high"):
        tensor, saved = getattr(prior, name), state.get(prefix + name)
        if saved is not None and not tensor.numel():
            tensor.data = tensor.new_empty(saved.shape)
