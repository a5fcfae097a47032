r"""A deep guide whose top-down path is that of its prior."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyrovae.nets.blocks import on_images
from pyrovae.nets.ladder import LadderEncoder, narrow_block
from pyrovae.parts import Part
from pyrovae.priors.residual_ladder import ResidualLadder as Prior

__all__ = ["ResidualLadder"]


class ResidualLadder(Part):
    r"""Sample the sites "z_L", ..., "z_1" top-down, through the blocks of the prior.

    $$ q(z_l | z_{>l}, x) = N\big(m_l(h_l) + a_l,\; \mathrm{diag}\, (s_l(h_l)\, b_l)^2\big),\qquad
       (a_l, b_l) = g_l(h_l, d_l(x)) $$

    An upward pass of residual blocks gives each level maps d_l of x. The state h_l, with the mean
    and the scale of p(z_l | z_{>l}), is that of the prior at the same latents; the guide learns
    how x changes them. Its sites stand in the prior's order, so that the closed-form KLs of the
    levels add up to the rate. The context is ignored.

    Args:
        prior: the `priors.ResidualLadder` of the same VAE (the same object).
        shape: (c, H, H) of the images.

    Raises:
        ValueError: if the prior is another one, or the image is not square with a side that is a
            multiple of that of the prior's maps.

    References:
        Child, 2021. Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on
        Images.
        Vahdat, Kautz, 2020. NVAE: A Deep Hierarchical Variational Autoencoder.

    Example:
        >>> import torch, pyrovae as pv
        >>> prior = pv.priors.ResidualLadder((2, 4), latents=3, channels=8)
        >>> decoder = pv.nets.MapsDecoder(prior.maps, (1, 8, 8))
        >>> vae = pv.VAE(
        ...     prior=prior,
        ...     likelihood=pv.likelihoods.Bernoulli(decoder),
        ...     guide=pv.guides.ResidualLadder(prior, (1, 8, 8)),
        ... )
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=20)
        >>> list(report.site_rates)
        ['z_2', 'z_1']
    """

    def __init__(self, prior: Prior, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if not isinstance(prior, Prior):
            raise ValueError(
                "guides.ResidualLadder takes a priors.ResidualLadder, whose blocks it shares; got "
                f"{type(prior).__name__}"
            )
        self.prior = prior
        channels = prior.maps[0]
        self.encoder = LadderEncoder(shape, prior.sides, channels)
        self.changes = nn.ModuleList(
            narrow_block(2 * channels, 2 * level.latents) for _, level in prior.by_site()
        )

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Sample every level and return the feature maps, [..., C * side * side]."""
        h: Tensor = self.prior.start
        levels = zip(self.prior.by_site(), self.encoder(x), self.changes, strict=True)
        for (name, level), seen, change in levels:
            h = level.enlarge(h)
            lead = torch.broadcast_shapes(h.shape[:-1], seen.shape[:-1])
            both = torch.cat([part.expand(*lead, part.shape[-1]) for part in (h, seen)], dim=-1)
            channels = 2 * level.channels, level.side, level.side
            q = level.residual(h, on_images(change, both, channels))
            h = level.take(h, pyro.sample(name, q))
        return h
