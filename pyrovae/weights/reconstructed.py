"""Draw the latents of data and decode them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.types import ContextValue, Program
from pyrovae.weights.pair import TracePair
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.traces import held

__all__ = ["decoded_draw"]


def decoded_draw(model: Program, guide: Program, x: Tensor, *context: ContextValue) -> Any:
    """Return the trace of the model at one draw of the latents of each datum, with x sampled.

    A latent that the guide omits, because the model enumerates it, is drawn from its posterior
    given x and the other latents.

    Args:
        model: the program of a VAE, called as `model(None, *context, size=N)`.
        guide: its guide.
        x: data [N, ...].
        *context: further arguments of both.
    """

    def generated(given: Any) -> Any:
        program = poutine.trace(poutine.replay(model, trace=given))
        return program.get_trace(None, *context, size=len(x))

    drawn = poutine.trace(guide).get_trace(x, *context)
    found = generated(drawn)
    left = {name for name, site in sample_sites(found) if _is_enumerated(site)} - {*drawn.nodes}
    if not left:
        return found
    return generated(_given_x(TracePair.run(model, guide, x, *context, particles=1)))


def _is_enumerated(site: Any) -> bool:
    return bool(site["infer"].get("enumerate") == "parallel")


def _given_x(pair: TracePair) -> Any:
    """Return latents to replay: one value of the enumerated sites, by its weight given x."""
    full = torch.broadcast_shapes(pair.log_joint.shape, pair.layout.shape)
    # A datum that is impossible at every value has no weights: any of them stands for it.
    weights = pair.layout.alternatives(pair.log_joint)[:, 0].softmax(0).nan_to_num(1.0)
    chosen = torch.multinomial(weights.T, 1)[:, 0]
    rows = torch.arange(len(chosen), device=chosen.device)

    def one(site: Any) -> Tensor:
        event = site["fn"].event_shape
        values: Tensor = site["value"].expand(*full, *event)
        return values.reshape(-1, len(rows), *event)[chosen, rows]

    return held({name: one(site) for name, site in pair.latent.items()})
