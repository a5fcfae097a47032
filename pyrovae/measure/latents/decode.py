"""Decode given latents: the means of p(x | z) at values of every latent site.

Values of a site have shape [S, 1, ...]: S steps of one datum. A site of the model that has no
value, as one that a guide leaves to enumeration, is drawn once and held.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.measure.latents.advice import Advised
from pyrovae.measure.latents.sites import LatentSite, Values, drawn, latent_sites, latent_values
from pyrovae.types import Program
from pyrovae.vae import VAE
from pyrovae.weights.families import known_mean
from pyrovae.weights.given import Given
from pyrovae.weights.sites import mean_of

__all__ = ["Means", "decode_means", "mean_latents", "prior_program", "prior_sites", "repeated"]

PASS: Final = 64
"""The number of steps that are decoded at once."""

PROBED: Final = 16
"""The number of copies of a datum at which the prior is inspected."""


class Means(Messenger):
    """Set each continuous latent to its mean, if that has a closed form and is a possible value.

    The mean of a distribution on a sphere lies inside it.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["name"] == "x":
            return
        if msg["fn"].support.is_discrete:
            return
        mean = known_mean(msg["fn"])
        if mean is not None and msg["fn"].support.check(mean).all():
            msg["value"], msg["done"] = mean, True


def mean_latents(vae: VAE, given: Given) -> Values:
    """Return the guide's latents, each at its mean given those before it, [1, N, ...] by site.

    A site without a mean in closed form, such as a class, is a draw.
    """
    with Means():
        return latent_values(drawn(vae.guide, 1, *given))


def prior_program(vae: VAE) -> Program:
    """Return the program `prior(x, *context)`, which samples the latents for len(x) data."""
    alone = VAE(vae.prior, lambda z, x, *context: z, vae.posterior).model
    return lambda x, *context: alone(None, *context, size=len(x))


def prior_sites(vae: VAE, row: Given) -> list[LatentSite]:
    """Describe the latent sites of the prior at the context of one datum.

    The datum is repeated: a site that depends on a class shows it only if the classes differ.
    """
    return latent_sites(prior_program(vae), *row.rows(torch.zeros(PROBED, dtype=torch.long)))


def repeated(values: Values, steps: int) -> Values:
    """Copy the latents of one datum, [1, 1, ...] by site, for each step, [S, 1, ...].

    The copies are contiguous, so that `flat` is a view of them, through which one entry is set.
    """
    return {
        name: value.expand(steps, *value.shape[1:]).clone(memory_format=torch.contiguous_format)
        for name, value in values.items()
    }


def decode_means(vae: VAE, latents: Values, *context: Any) -> Tensor:
    """Return the means of p(x | z) at S steps, [S, ...].

    Args:
        vae: the VAE.
        latents: the values of the guide's sites, [S, 1, ...].
        *context: the context of one datum.

    Raises:
        ValueError: naming the site, if a value lies outside its support; or if the likelihood
            has no site "x".
        UndefinedMean: if p(x | z) has no mean.
    """
    steps = len(next(iter(latents.values())))

    def generate(*context: Any) -> Any:
        return vae.model(None, *context, size=1)

    first = {name: value[:1] for name, value in latents.items()}
    with Means():
        rest = latent_values(drawn(generate, 1, *context, given=first))
    others = {name: v for name, v in rest.items() if name not in latents and name != "x"}
    whole = latents | repeated(others, steps)
    means = []
    for start in range(0, steps, PASS):
        part = {name: value[start : start + PASS] for name, value in whole.items()}
        trace = drawn(generate, len(next(iter(part.values()))), *context, given=part)
        if "x" not in trace.nodes:
            raise ValueError(
                f"the likelihood has the sites {list(trace.stochastic_nodes)} but none named 'x': "
                "observe the data with pyro.sample('x', ..., obs=x)"
            )
        for name, value in part.items():
            _check_support(trace.nodes[name], value)
        means.append(mean_of(trace.nodes["x"]["fn"])[:, 0])
    return torch.cat(means)


def _check_support(site: Any, value: Tensor) -> None:
    """Check that values lie in the support of a site's distribution."""
    support = site["fn"].support
    if not support.check(value).all():
        raise Advised(
            f"values on the way lie outside the support of site '{site['name']}', {support}; its "
            "dimensions cannot be moved one by one or along a line",
            python="on a sphere, use interpolate(vae, x, path=paths.spherical)",
            options="on a sphere, `pyrovae interpolate` follows its great circles",
        )
