"""Draw latents and data jointly from a model.

The latents of each pair (z, x) are an exact draw from the posterior p(z | x).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.measure.findings import NotMeasurable
from pyrovae.types import ContextValue, Target
from pyrovae.vae import VAE
from pyrovae.weights.log_joint import Layout
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.target import Resolved

__all__ = ["simulate"]


def simulate(target: Target, x: Tensor, *context: ContextValue) -> tuple[Any, Tensor]:
    r"""Draw latents and data of the shape of x, $(z, x) \sim p(z)\, p(x | z)$.

    The draw is scored again as observed data. The two scores differ for a model that draws x from
    another density than the one it scores x with, such as a model that reads its argument x. Its
    upper bounds on log p(x) would be wrong, so it is refused.

    Args:
        target: a `VAE`, or a pair (model, guide).
        x: data [N, ...]. Only its shape and dtype are used.
        *context: the other arguments of the programs.

    Returns:
        The model's trace under a plate of one particle, which holds the latents; and the data.

    Raises:
        NotMeasurable: if the model does not draw exactly one x of the shape given, draws x from
            another density than the one it scores x with, or observes another site that may
            depend on the latents.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> trace, x = pv.measure.simulate.simulate(vae, torch.zeros(5, 64))
        >>> trace.nodes["z"]["value"].shape, x.shape
        (torch.Size([1, 5, 2]), torch.Size([5, 64]))
    """
    model = Resolved.of(target).model
    own = isinstance(target, VAE)
    drawing = functools.partial(model, size=len(x)) if own else poutine.uncondition(model)
    arguments = (None if own else x, *context)
    with torch.no_grad():
        trace = poutine.trace(over_particles(drawing, 1)).get_trace(*arguments)
        drawn = _drawn_data(trace, own=own)
        if drawn.shape != (1, *x.shape):
            raise _not_drawn(f"x of shape {tuple(drawn.shape[1:])}, expected {tuple(x.shape)}")
        x = drawn.squeeze(0).to(x.dtype)
        latents = trace.copy()
        for name, _ in list(sample_sites(trace)):
            if trace.nodes[name]["value"] is drawn:
                latents.remove_node(name)
        again = poutine.replay(over_particles(model, 1), trace=latents)
        scored = _log_joint(poutine.trace(again).get_trace(x, *context))
    if not torch.allclose(scored, _log_joint(trace), rtol=1e-3, atol=1e-3):
        raise _not_drawn("x from another density than the one it scores x with")
    return trace, x


def _drawn_data(trace: Any, *, own: bool) -> Tensor:
    """Return the value drawn at the site of x, under a plate of one particle."""
    sites = list(sample_sites(trace))
    if own:
        found = [site for name, site in sites if name == "x" and not site["is_observed"]]
        latents = [i for i, (name, s) in enumerate(sites) if name != "x" and not s["is_observed"]]
        later = [n for n, s in sites[min(latents, default=0) :] if s["is_observed"]]
        if later:
            raise _not_drawn(
                f"x given the observed sites {later}, which may depend on the latents"
            )
    else:
        found = [site for _, site in sites if site["infer"].get("was_observed")]
    if len(found) != 1:
        raise _not_drawn(f"{len(found)} observed sites, expected one")
    value: Tensor = found[0]["value"]
    return value


def _log_joint(trace: Any) -> Tensor:
    layout = Layout.measured(trace, particles=1)
    return layout.log_density(sample_sites(trace))


def _not_drawn(what: str) -> NotMeasurable:
    return NotMeasurable(
        f"this measurement needs data drawn from the model; the model draws {what}: use a VAE "
        "whose likelihood has one site 'x' and samples it when x is None"
    )
