"""Draw latents and data together from a model: each pair holds an exact draw of the posterior."""

from __future__ import annotations

import functools
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.types import ContextValue, Target
from pyrovae.vae import VAE
from pyrovae.weights.log_joint import Layout
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.target import programs


def simulate(target: Target, x: Tensor, *context: ContextValue) -> tuple[Any, Tensor]:
    """Draw latents and as many data from the model, in place of x, with the same context.

    The draw is scored again as data are: a model that draws x otherwise than it scores x, such as
    one that reads the x it was given, would make a false upper bound.

    Returns:
        A trace of the model under a plate of one particle, which holds the latents, and the data.

    Raises:
        ValueError: if the model does not draw one x like the one given, draws it from another
            density than it scores it with, or observes something else that depends on the latents.
    """
    model, _ = programs(target)
    own = isinstance(target, VAE)
    drawing = functools.partial(model, size=len(x)) if own else poutine.uncondition(model)
    arguments = (None if own else x, *context)
    with torch.no_grad():
        trace = poutine.trace(over_particles(drawing, 1)).get_trace(*arguments)
        drawn = _drawn_data(trace, own=own)
        if drawn.shape != (1, *x.shape):
            raise _not_drawn(f"{tuple(drawn.shape[1:])} in place of x, {tuple(x.shape)}")
        x = drawn.squeeze(0).to(x.dtype)
        latents = trace.copy()
        for name, _ in list(sample_sites(trace)):
            if trace.nodes[name]["value"] is drawn:
                latents.remove_node(name)
        again = poutine.replay(over_particles(model, 1), trace=latents)
        scored = _log_joint(poutine.trace(again).get_trace(x, *context))
    if not torch.allclose(scored, _log_joint(trace), rtol=1e-3, atol=1e-3):
        raise _not_drawn("x from another density than that which scores it")
    return trace, x


def _drawn_data(trace: Any, *, own: bool) -> Tensor:
    """Return what was drawn at the site of x, under a plate of one particle."""
    sites = list(sample_sites(trace))
    if own:
        found = [site for name, site in sites if name == "x" and not site["is_observed"]]
        latents = [i for i, (name, s) in enumerate(sites) if name != "x" and not s["is_observed"]]
        later = [n for n, s in sites[min(latents, default=0) :] if s["is_observed"]]
        if later:
            raise _not_drawn(f"x given {later}, which may depend on the latents")
    else:
        found = [site for _, site in sites if site["infer"].get("was_observed")]
    if len(found) != 1:
        raise _not_drawn(f"{len(found)} sites in place of one x")
    value: Tensor = found[0]["value"]
    return value


def _log_joint(trace: Any) -> Tensor:
    layout = Layout.measured(trace, particles=1)
    return layout.log_density(sample_sites(trace))


def _not_drawn(what: str) -> ValueError:
    return ValueError(
        f"data drawn from the model are needed here, and this one draws {what}: give "
        "a VAE whose likelihood draws at its one site 'x', where x is None, what it scores"
    )
