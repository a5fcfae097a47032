"""Whether the latents tell the decoder anything: what log p(x | z) loses by another datum's z.

Where q is the posterior, the loss is on average the information I(x; z) and as much again the
other way about (the lautum information), so that it is never below I(x; z). A decoder that does
not read z loses nothing, nor one whose guide does not read x, nor a pair that was never trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from pyrovae.weights.bounds import Estimate
from pyrovae.weights.given import Given
from pyrovae.weights.pair import TracePair
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.traces import Program, trace_model

NEGLIGIBLE: Final = 0.1
"""Nats of information below which latents are said to hold nothing. The mark is ours."""

MUCH: Final = 1.0
"""Nats from which latents are said to hold something, whatever the errors. The mark is ours."""

ASKED: Final = 2_000
"""The data that tell: others are not asked."""


@torch.no_grad()
def cost_of_another(model: Program, pair: TracePair, given: Given) -> Tensor:
    """Return what log p(x | z) of each datum loses by the z of the one before it, [N].

    NaN where it is not known: of a single datum, where a latent is summed out, or where the
    model refuses to score x at another's z.

    Args:
        model: the model.
        pair: its trace and the guide's, at one particle.
        given: the data.

    References:
        Palomar, Verdu, 2008. Lautum Information.
    """
    if len(given) < 2 or pair.enumerated:
        return torch.full((len(given),), math.nan)
    others = pair.guide.copy()
    for name, site in sample_sites(pair.guide):
        value = site["value"]
        others.nodes[name]["value"] = value.roll(1, value.ndim - site["fn"].event_dim - 1)
    try:
        trace = trace_model(model, *given, particles=1, given=others)
        swapped = _log_likelihood(TracePair(trace, pair.guide, pair.layout))
    except (ValueError, RuntimeError):  # such as x outside the support that another's z leaves it
        return torch.full((len(given),), math.nan)
    return _log_likelihood(pair) - swapped


def _log_likelihood(pair: TracePair) -> Tensor:
    return pair.layout.log_density(pair.observed.items()).reshape(-1)


def remarks(rate: Estimate, cost: Tensor) -> Sequence[str]:
    """Say it where latents hold next to nothing, by their rate or by the cost of another's z.

    Args:
        rate: KL(q || p), which the information I(x; z) never exceeds.
        cost: as of `cost_of_another`, NaN where it is not known.
    """
    if rate.mean + 2 * rate.error_over_particles < NEGLIGIBLE:
        return [
            f"The latents hold next to nothing: KL(q || p) is {rate.mean:.2g} nats, and z tells "
            "no more than that about x. The VAE has collapsed, or was never trained."
        ]
    known = cost[~cost.isnan()].double()
    found = Estimate(known, torch.zeros_like(known))
    if len(known) < 2 or not found.mean < max(NEGLIGIBLE, min(MUCH, 2 * found.error_over_data)):
        return []
    return [
        f"The latents tell the decoder next to nothing: log p(x | z) falls by {found.mean:.2g} ± "
        f"{found.error_over_data:.2g} nats when z is another datum's. The VAE was never trained, "
        "or has collapsed."
    ]
