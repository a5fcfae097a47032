r"""Paths between two latents a and b: a line, and a great circle.

    line       z(t) = (1 - t) a + t b
    circle     z(t) = ((1 - t)|a| + t|b|) (sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin w

with w the angle between a and b. In many dimensions a standard normal has its mass near a sphere
of radius sqrt(D). The middle of a line between two of its draws lies at 0.7 of this radius, where
the decoder was hardly trained; the great circle stays at the radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Path", "linear", "spherical"]

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A path: of two latents [D] and S shares from 0 to 1, the latents [S, D] between them."""


def linear(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return latents on the line between two, [S, D].

    Example:
        >>> import torch
        >>> from pyrovae.measure.latents.paths import linear
        >>> linear(torch.zeros(2), torch.ones(2), torch.tensor([0.0, 0.5, 1.0]))
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000],
                [1.0000, 1.0000]])
    """
    return torch.lerp(start, end, shares.to(start).unsqueeze(-1))


def spherical(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    r"""Return latents on the great circle between two (slerp), [S, D].

    The angle from the start and the norm change in proportion to the share.

    $$ z(t) = \left((1 - t) |a| + t |b|\right)
       \frac{\sin((1 - t) \omega) \hat a + \sin(t \omega) \hat b}{\sin \omega},
       \qquad \cos \omega = \hat a \cdot \hat b $$

    Raises:
        ValueError: if a latent is zero, which has no direction, or the two are opposite, between
            which there are many great circles.

    References:
        Shoemake, 1985. Animating Rotation with Quaternion Curves.
        White, 2016. Sampling Generative Networks.

    Example:
        >>> import torch
        >>> from pyrovae.measure.latents.paths import spherical
        >>> a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> spherical(a, b, torch.tensor([0.5]))
        tensor([[1.4142, 1.4142]])
    """
    a, b, t = start.double(), end.double(), shares.to(start).double().unsqueeze(-1)
    norms = a.norm(), b.norm()
    if min(norms) == 0:
        raise ValueError(
            "one of the latents is zero, the center of the prior, and has no direction to turn "
            "from: use paths.linear"
        )
    a, b = a / norms[0], b / norms[1]
    # The angle by its half is accurate for small and for large angles (Kahan).
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if math.pi - angle < 1e-6:
        raise ValueError(
            "the two latents are opposite, and there are many great circles between them: use "
            "paths.linear"
        )
    if angle < 1e-6:  # The circle is a line to the accuracy of double precision.
        weights = 1 - t, t
    else:
        weights = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    found = torch.lerp(*norms, t) * (weights[0] * a + weights[1] * b)
    return found.to(start)
