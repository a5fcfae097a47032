r"""Interpolation between the latents of two data, along a line or a great circle.

    line       z(t) = (1 - t) a + t b
    circle     z(t) = ((1 - t)|a| + t|b|) (sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin w

with w the angle between a and b. In many dimensions a standard normal has its mass near a sphere
of radius sqrt(D). The middle of a line between two of its draws lies at 0.7 of this radius, where
the decoder was hardly trained; the great circle stays at the radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.measure.latents.decode import (
    decode_means,
    mean_latents,
    prior_program,
    prior_sites,
)
from pyrovae.measure.latents.sites import Values, drawn, latent_values
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.families import innermost, univariate_factors
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["Interpolation", "Path", "interpolate", "linear", "spherical"]

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A path: of two latents [D] and S shares from 0 to 1, the latents [S, D] between them."""


@dataclass(frozen=True)
class Interpolation:
    """The means of p(x | z) along a path between the latents of two data.

    Attributes:
        shares: the S shares of the way, from 0 to 1.
        latents: the latents on the way by site, [S, ...].
        means: the means of p(x | z), [S, ...].
    """

    shares: Tensor
    latents: Values
    means: Tensor


def linear(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return latents on the line between two, [S, D].

    Example:
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
        >>> a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> spherical(a, b, torch.tensor([0.5]))
        tensor([[1.4142, 1.4142]])
    """
    a, b, t = start.double(), end.double(), shares.to(start).double().unsqueeze(-1)
    norms = a.norm(), b.norm()
    if min(norms) == 0:
        raise ValueError(
            "one of the latents is zero, the center of the prior, and has no direction to turn "
            "from: use path=linear"
        )
    a, b = a / norms[0], b / norms[1]
    # The angle by its half is accurate for small and for large angles (Kahan).
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if math.pi - angle < 1e-6:
        raise ValueError(
            "the two latents are opposite, and there are many great circles between them: use "
            "path=linear"
        )
    if angle < 1e-6:  # The circle is a line to the accuracy of double precision.
        weights = 1 - t, t
    else:
        weights = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    found = torch.lerp(*norms, t) * (weights[0] * a + weights[1] * b)
    return found.to(start)


@torch.no_grad()
def interpolate(
    vae: VAE,
    x: Any,
    *context: ContextValue,
    steps: int = 11,
    path: Path = linear,
) -> Interpolation:
    """Decode latents on a path between the posterior means of two data.

    The latents of every site move together. With `spherical`, they turn around the prior's mean
    in units of its standard deviation, so the prior must be normal or uniform on a sphere. All
    steps are decoded with the context of the first datum.

    Args:
        vae: the VAE.
        x: the two data, [2, ...].
        *context: further arguments of the programs.
        steps: the number of steps S, both ends included.
        path: `linear`, `spherical`, or a function of your own of the same signature.

    Raises:
        ValueError: if there are not two data, `steps` is below 2, a latent is discrete, the prior
            is not one of those for `spherical`, or the path leaves the prior's support.
        UndefinedMean: if p(x | z) has no mean.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> found = pv.interpolate(vae, torch.rand(2, 64).round(), path=pv.spherical)
        >>> found.means.shape
        torch.Size([11, 64])
    """
    resolved = Resolved.of(vae)
    given = resolved.given(x, *context)
    if len(given) != 2 or steps < 2:
        raise ValueError(
            f"an interpolation is between two data, in two steps or more; got {len(given)} data "
            f"and steps={steps}: pass two rows, x[[0, 5]]"
        )
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)
    with resolved.evaluating():
        ends, row = mean_latents(vae, given), given.rows(slice(1))
        _check_continuous(vae, row)
        frames = _frames(vae, ends, row) if path is spherical else {}
        latents = {
            name: _between(value[0], shares, path, *frames.get(name, (0.0, 1.0)))
            for name, value in ends.items()
        }
        means = decode_means(vae, {n: v.unsqueeze(1) for n, v in latents.items()}, *row.context)
    return Interpolation(shares, latents, means)


def _between(ends: Tensor, shares: Tensor, path: Path, center: Any, scale: Any) -> Tensor:
    """Return a site's latents on a path between its two ends [2, ...], [S, ...]."""
    a, b = ((ends - center) / scale).flatten(1)
    return path(a, b, shares).reshape(len(shares), *ends.shape[1:]) * scale + center


def _check_continuous(vae: VAE, row: Given) -> None:
    trace = drawn(vae.guide, 1, *row)
    for name in latent_values(trace):
        if trace.nodes[name]["fn"].support.is_discrete:
            raise ValueError(
                f"site '{name}' is discrete, and there is nothing between two of its values: "
                "interpolate a VAE whose latents are continuous, or decode each value with "
                "vae.decode(z)"
            )


def _frames(vae: VAE, ends: Values, row: Given) -> dict[str, tuple[Any, Any]]:
    """Return the center and the scale of the prior of each site, [...] each.

    Raises:
        ValueError: if a prior is neither a product of normals nor uniform on a sphere, or it
            depends on another site.
    """
    nodes = drawn(prior_program(vae), 1, *row).nodes
    dependent = [site.name for site in prior_sites(vae, row) if site.dependent]
    if dependent:
        raise ValueError(
            f"the great circles of path=spherical turn around a fixed center; the prior of sites "
            f"{dependent} depends on other sites: use path=linear"
        )
    found = {}
    for name in ends:
        fn = nodes[name]["fn"]
        normal = univariate_factors(fn)
        if isinstance(innermost(normal), td.Normal):
            found[name] = normal.mean[0, 0], normal.stddev[0, 0]
        elif type(innermost(fn)).__name__ == "SphericalUniform":
            found[name] = 0.0, 1.0
        else:
            raise ValueError(
                f"the great circles of path=spherical are of normal priors; the prior of site "
                f"'{name}' is a {type(innermost(fn)).__name__}: use path=linear"
            )
    return found
