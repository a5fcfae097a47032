"""Detect latents that the decoder does not use.

The cost of another is the loss in log p(x | z) if z is replaced by the z of another datum. If q is
the exact posterior, its mean is the mutual information I(x; z) plus the lautum information, so it
is at least I(x; z). It is about zero if the decoder ignores z, if the guide ignores x, or if the
pair was never trained.
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

__all__ = ["ASKED", "MUCH", "NEGLIGIBLE", "cost_of_another", "remarks"]

NEGLIGIBLE: Final = 0.1
"""Nats of information below which latents count as unused. The threshold is ours."""

MUCH: Final = 1.0
"""Nats at which latents count as used, whatever the error. The threshold is ours."""

ASKED: Final = 2_000
"""The number of data, the first ones, for which `evaluate` measures the cost of another."""


@torch.no_grad()
def cost_of_another(model: Program, pair: TracePair, given: Given) -> Tensor:
    r"""Return the loss in log p(x | z) if z is the z of the previous datum, in nats, [N].

    $$ \log p(x_n | z_n) - \log p(x_n | z_{n-1}) $$

    It is NaN for a single datum, if a latent is summed out, and if the model cannot score x at
    the z of another datum.

    Args:
        model: the model.
        pair: the traces of the model and the guide at one particle.
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
    except Exception:  # noqa: BLE001 (such as x outside the support at another z)
        return torch.full((len(given),), math.nan)
    return _log_likelihood(pair) - swapped


def _log_likelihood(pair: TracePair) -> Tensor:
    return pair.layout.log_density(pair.observed.items()).reshape(-1)


def remarks(rate: Estimate, cost: Tensor) -> Sequence[str]:
    """Return a warning if the latents are unused, judged by the rate or by the cost of another.

    If the cost is within two errors of 0, but of a nat as well, it is not known whether they are.

    Args:
        rate: KL(q || p) of each datum. Its mean is an upper bound on I(x; z).
        cost: the result of `cost_of_another`, [N]; NaN where it is not known.
    """
    if rate.mean + 2 * rate.error_over_particles < NEGLIGIBLE:
        return [
            f"The latents are unused: KL(q || p) is {rate.mean:.2g} nats, an upper bound on the "
            "information about x in z. The VAE has collapsed, or was never trained. Train it "
            "longer, or anneal the KL weight."
        ]
    known = cost[~cost.isnan()].double()
    found = Estimate(known, torch.zeros_like(known))
    if len(known) < 2 or not found.mean < max(NEGLIGIBLE, min(MUCH, 2 * found.error_over_data)):
        return []
    if found.mean + 2 * found.error_over_data >= MUCH:
        return [
            "It is not clear that the decoder uses the latents: log p(x | z) falls by "
            f"{found.mean:.2g} ± {found.error_over_data:.2g} nats if z is taken from another "
            f"datum, of {len(known):,}. Measure more data."
        ]
    return [
        f"The decoder hardly uses the latents: log p(x | z) falls by {found.mean:.2g} ± "
        f"{found.error_over_data:.2g} nats if z is taken from another datum. The VAE was never "
        "trained, or has collapsed. Train it longer, or anneal the KL weight."
    ]
