"""Draw replicated data sets x_rep from a model, with new latents or with posterior latents."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.measure.findings import NotMeasurable
from pyrovae.weights.bounds import effective_sample_size
from pyrovae.weights.given import Given
from pyrovae.weights.observed import observed_at
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import advice_on_shapes, log_prob, sample_sites

__all__ = ["Drawn", "Latents", "draw", "resample"]

Latents = dict[str, Tensor]
"""Values of the latents by site, [draws, N, ...]."""


@dataclass(frozen=True)
class Drawn:
    """Data sets drawn from a model.

    Attributes:
        x: the data sets, [draws, N, ...].
        latents: the latents they were drawn from, if given.
        log_likelihood: log p(x_rep | z), [draws, N].
        log_likelihood_of_real: log p(x | z) at the same latents, [draws, N].
        observed: the share of entries that are not masked.
    """

    x: Tensor
    latents: Latents
    log_likelihood: Tensor
    log_likelihood_of_real: Tensor
    observed: float


def draw(
    drawing: functools.partial[Any],
    latents: Latents,
    draws: int,
    given: Given,
) -> Drawn:
    """Draw data sets of the shape of x, from the given latents or from new ones.

    Raises:
        NotMeasurable: if the model has no site "x", or draws it with another shape.
    """
    x, context = given.x, given.context
    held = poutine.condition(over_particles(drawing.func, draws), data=latents)
    with advice_on_shapes():
        trace = poutine.trace(held).get_trace(*drawing.args, *context, **drawing.keywords)
    # Pyro splits a site with an obs_mask in two: x_observed and x_unobserved.
    site = trace.nodes.get("x_observed", trace.nodes.get("x"))
    if site is None:
        raise NotMeasurable(
            "a predictive check needs a site named 'x'; the model has the sites "
            f"{[name for name, _ in sample_sites(trace)]}: rename the observed site"
        )
    wanted = (draws, *x.shape)
    if site["value"].shape != wanted:
        raise NotMeasurable(
            f"site 'x' was drawn with shape {tuple(site['value'].shape)}; {draws} data sets like "
            f"x have shape {wanted}: sample it in the plate over data and declare the other "
            "dimensions with .to_event"
        )
    real = log_prob({**site, "value": x})
    seen = observed_at(site)
    if seen is None:
        return Drawn(site["value"], latents, log_prob(site), real, 1.0)
    # Missing entries of the drawn data take the values of the real data.
    filled = torch.where(seen, site["value"], x)
    return Drawn(filled, latents, log_prob(site), real, seen.double().mean().item())


def resample(given: Given, particles: int, draws: int) -> tuple[Latents, Tensor]:
    """Draw latents from the posterior by sampling importance resampling.

    Returns:
        The latents, [draws, N, ...] by site, chosen from K particles of the guide with probability
        proportional to their weights; and the effective sample sizes, [N].

    Raises:
        NotMeasurable: if all weights of a datum are zero.
    """
    pair = given.trace(particles, enumerate=False)
    log_w = pair.log_w
    impossible = int((log_w.amax(0) == -torch.inf).sum())
    if impossible:
        raise NotMeasurable(
            f"all weights of {impossible:,} data are zero, so that they have no posterior to draw "
            "from: they are impossible under the model, or at all draws of the guide; leave them "
            "out, or use more particles"
        )
    chosen = torch.multinomial(log_w.softmax(0).T, draws, replacement=True).T
    columns = torch.arange(log_w.shape[1], device=log_w.device)
    latents = {
        name: site["value"].expand(*log_w.shape, *site["fn"].event_shape)[chosen, columns]
        for name, site in sample_sites(pair.guide)
        if name in pair.model.nodes
    }
    return latents, effective_sample_size(log_w)
