"""Interpolation between the latents of two data, decoded along a path (see `paths`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.measure.latents.advice import Advised
from pyrovae.measure.latents.decode import (
    decode_means,
    mean_latents,
    prior_program,
    prior_sites,
)
from pyrovae.measure.latents.paths import Path, linear, spherical
from pyrovae.measure.latents.sites import Values, drawn, latent_values
from pyrovae.types import ContextValue
from pyrovae.vae import VAE
from pyrovae.weights.families import innermost, univariate_factors
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["Interpolation", "interpolate"]


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


@torch.no_grad()
def interpolate(
    vae: VAE,
    x: Any,
    *context: ContextValue,
    steps: int = 11,
    path: Path = linear,
) -> Interpolation:
    """Decode latents on a path between the posterior means of two data.

    The latents of every site move together. With `paths.spherical`, they turn around the mean of
    the prior in units of its standard deviation, so the prior must be normal or uniform on a
    sphere. All steps are decoded with the context of the first datum.

    Args:
        vae: the VAE.
        x: the two data, [2, ...].
        *context: further arguments of the programs.
        steps: the number of steps S, both ends included.
        path: `paths.linear`, `paths.spherical`, or a function of your own of the same signature.

    Raises:
        ValueError: if there are not two data, `steps` is below 2, a latent is discrete, the prior
            is not one of those for `paths.spherical`, or the path leaves the prior's support.
        UndefinedMean: if p(x | z) has no mean.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> found = pv.interpolate(vae, torch.rand(2, 64).round(), path=pv.paths.spherical)
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
            remedy = "interpolate a VAE whose latents are continuous"
            raise Advised(
                f"site '{name}' is discrete, and there is nothing between two of its values",
                python=f"{remedy}, or decode each value with vae.decode(z)",
                options=remedy,
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
        raise Advised(
            f"great circles turn around a fixed center; the prior of sites {dependent} depends on "
            "other sites",
            python="use paths.linear",
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
            raise Advised(
                f"great circles are of normal priors; the prior of site '{name}' is a "
                f"{type(innermost(fn)).__name__}",
                python="use paths.linear",
            )
    return found
