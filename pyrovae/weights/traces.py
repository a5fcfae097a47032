"""Trace a guide, then the model replayed on it, under a plate of K particles at dim -2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyrovae.types import Program
from pyrovae.weights.auxiliary import check_codes, check_guide, check_measures
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import (
    advice_on_shapes,
    check_latents,
    check_plates,
    plate_size,
    sample_sites,
)

__all__ = ["Program", "check_pair", "held", "trace_guide", "trace_model", "trace_pair"]


def trace_pair(
    model: Program, guide: Program, *args: Any, particles: int, enumerate: bool = True
) -> tuple[Any, Any]:
    """Trace the guide, then the model replayed on it, under a plate of K particles.

    Args:
        model: a Pyro program.
        guide: a Pyro program.
        *args: the arguments of both.
        particles: K.
        enumerate: whether sites with `infer={"enumerate": "parallel"}` are enumerated or sampled.

    Returns:
        The traces of the model and of the guide.

    Raises:
        ValueError: as `check_pair`.
    """
    guide_trace = trace_guide(guide, *args, particles=particles, enumerate=enumerate)
    check_guide(guide_trace)  # A model cannot be replayed on observed sites of a guide.
    model_trace = trace_model(
        model, *args, particles=particles, given=guide_trace, enumerate=enumerate
    )
    check_pair(model_trace, guide_trace)
    return model_trace, guide_trace


def trace_guide(
    guide: Program, *args: Any, particles: int, given: Any = None, enumerate: bool = True
) -> Any:
    """Trace a guide under a plate of K particles, replayed on an earlier trace if given."""
    guide = over_particles(guide, particles)
    if enumerate:
        guide = EnumMessenger(first_available_dim=-3)(guide)
    return _traced(guide if given is None else poutine.replay(guide, trace=given), args)


def trace_model(
    model: Program, *args: Any, particles: int, given: Any, enumerate: bool = True
) -> Any:
    """Trace a model under a plate of K particles, replayed on a trace."""
    model = over_particles(model, particles)
    if enumerate:
        model = EnumMessenger()(model)
    return _traced(poutine.replay(model, trace=given), args)


def held(values: Mapping[str, Tensor]) -> Any:
    """Return a trace with values by the names of their sites, to be replayed."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return trace


def check_pair(model_trace: Any, guide_trace: Any) -> None:
    """Check that the traces of the two programs match.

    Raises:
        ValueError: naming the site, if the two sample different latents, if one has a density
            and the other probabilities, if a site is outside the plate over data, or if the
            model has no sites.
    """
    check_guide(guide_trace)
    check_latents(model_trace, guide_trace)
    check_codes(model_trace, guide_trace)
    check_measures(model_trace, guide_trace)
    if not any(sample_sites(model_trace)):
        raise ValueError(
            "the model samples nothing: add pyro.sample statements for the latents and for x"
        )
    sites = [*sample_sites(guide_trace), *sample_sites(model_trace)]
    for name, site in sites:
        check_plates(name, site, plate_size(*sites[0]))


def _traced(program: Program, args: tuple[Any, ...]) -> Any:
    with advice_on_shapes():
        return poutine.trace(program).get_trace(*args)
