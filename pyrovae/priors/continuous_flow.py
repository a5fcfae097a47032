"""A prior by the probability flow of an ODE, matched to the aggregate posterior."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from pyrovae.data.domains import check_finite
from pyrovae.distributions.ode_flows import ODEFlow, VelocityField, matching_loss
from pyrovae.priors.base import Prior, check_latents

__all__ = ["ContinuousFlow"]


class ContinuousFlow(Prior):
    r"""Sample a site "z" from a normal that an ODE has moved: a diffusion model of latents.

    $$ \frac{du}{dt} = v(u, t),\quad u(0) \sim N(0, I),\quad z = m + s\, u(1),\qquad
       \log p(z) = \log N(u(0); 0, I) - \int_0^1 \mathrm{div}\, v\, dt - \sum_i \log s_i $$

    The divergence is exact, and the integral takes `steps` steps of the classical Runge-Kutta
    method. `integration_error` says by how much log p(z) changes with half of them: raise the
    attribute `steps` until that is far below the errors of a report.

    `match` trains it on draws of the aggregate posterior, without any integration, after the VAE
    was trained with another prior. `fit` trains it along with the VAE by the bound, through the
    ODE; a step is then as long as 4 `steps` networks in turn, and takes long to compile.

    Args:
        latents: the dimension D of z.
        hidden: the width of the two hidden layers of v.
        steps: the steps of the integration, even.

    Attributes:
        loc: m, zeros before `match`.
        scale: s, ones before `match`.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Vahdat, Kreis, Kautz, 2021. Score-based Generative Modeling in Latent Space.
        Lipman, Chen, Ben-Hamu, Nickel, Le, 2023. Flow Matching for Generative Modeling.
        Chen, Rubanova, Bettencourt, Duvenaud, 2018. Neural Ordinary Differential Equations.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.bernoulli(torch.full((50, 64), 0.3))
        >>> z = torch.cat([vae.encode(x).sample() for _ in range(4)])
        >>> prior = pv.priors.ContinuousFlow(2, hidden=16).match(z, batches=20)
        >>> bool((prior.integration_error(z) < 0.01).all())
        True
        >>> pv.evaluate(pv.VAE(prior, vae.likelihood, vae.posterior), x, particles=100).particles
        100
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latents: int, *, hidden: int = 64, steps: int = 16) -> None:
        super().__init__()
        check_latents(self, latents)
        self.field, self.steps = VelocityField(latents, hidden), steps
        self.register_buffer("loc", torch.zeros(latents))
        self.register_buffer("scale", torch.ones(latents))
        self.distribution()

    def distribution(self, *context: Tensor) -> ODEFlow:
        """Return p(z), with batch shape []; the context is ignored."""
        return ODEFlow(self.field.velocity(), self.loc, self.scale, steps=self.steps)

    def integration_error(self, z: Tensor) -> Tensor:
        """Return by how much log p(z) changes with half the steps, in nats, [...]."""
        return self.distribution().integration_error(z)

    def matching_loss(self, z: Tensor) -> Tensor:
        """Return the flow-matching loss at draws z [N, D], [N]; see `match`."""
        return matching_loss(self.field, (z - self.loc) / self.scale)

    def match(
        self, z: Tensor, *, batches: int = 3000, batch_size: int = 256, lr: float = 3e-3
    ) -> Self:
        r"""Train on draws of the aggregate posterior by flow matching, and return the prior.

        m and s are set to the mean and the standard deviation of the draws, so that a velocity of
        zero is the normal of the same moments. Adam then lowers the mean of `matching_loss` over
        random batches, with a rate that falls to zero along a cosine.

        Args:
            z: draws [M, D] of q(z | x) at the training data, best several for each datum.
            batches: the number of batches.
            batch_size: the number of draws in each.
            lr: the first rate of Adam.

        Raises:
            ValueError: if z is not [M, D] with two draws or more, not finite, or a coordinate
                does not vary.
        """
        z = z.detach().to(self.loc)
        check_finite(z)
        if z.ndim != 2 or len(z) < 2 or z.shape[1:] != self.loc.shape:
            raise ValueError(
                f"ContinuousFlow is matched to draws of the aggregate posterior, [M, "
                f"{len(self.loc)}] with M > 1; got {tuple(z.shape)}"
            )
        scale = z.std(0)
        if not (scale > 0).all():
            raise ValueError("the draws do not vary in a coordinate, and have no density there")
        self.loc.copy_(z.mean(0))
        self.scale.copy_(scale)
        optim = torch.optim.Adam(self.field.parameters(), lr=lr)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optim, batches)
        with torch.enable_grad():
            for _ in range(batches):
                rows = torch.randint(len(z), (batch_size,), device=z.device)
                optim.zero_grad()
                self.matching_loss(z[rows]).mean().backward()
                optim.step()
                rates.step()
        optim.zero_grad()
        return self
