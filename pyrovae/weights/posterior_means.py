r"""Posterior means $E_q[z | x]$ of latent sites, in closed form or as means over draws.

A site's distribution is that given the sites sampled before it. Its mean given x alone is the
average of its conditional mean over draws of these; if that has no closed form, the average of
its own draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from pyrovae.data.datasets import drawn_once
from pyrovae.randomness import seeded
from pyrovae.types import ContextValue, Data, Program, Target
from pyrovae.weights.given import Given
from pyrovae.weights.sites import (
    check_plates,
    innermost,
    is_point_mass,
    mean_of,
    one_line,
    sample_sites,
)
from pyrovae.weights.target import Resolved
from pyrovae.weights.traces import trace_guide

__all__ = ["MEAN_DRAWS", "PROBED", "PosteriorMean", "embedded", "posterior_means"]

MEAN_DRAWS: Final = 100
"""Draws that estimate a posterior mean without a closed form."""

PROBED: Final = 8
"""The number of data on which the sites of a program are inspected."""


class PosteriorMean(NamedTuple):
    """The posterior means of one site, flattened.

    Attributes:
        value: the means, [N, D].
        noise: their sampling variances, [N, D] in float64; 0 in closed form.
    """

    value: Tensor
    noise: Tensor


@torch.no_grad()
def embedded(target: Target, x: Data, *context: ContextValue, site: str | None = None) -> Tensor:
    """Return the posterior means of all sites, or of one, side by side; see `VAE.embed`."""
    resolved = Resolved.of(target)
    values = (*x, *context) if isinstance(x, tuple) else (x, *context)
    given = resolved.given(*drawn_once(values))
    with resolved.evaluating(), seeded(0):
        _check_taken(resolved.guide, given)
        means = posterior_means(resolved.guide, given, None if site is None else [site])
    return torch.cat([mean.value for mean in means.values()], -1)


def _check_taken(guide: Program, given: Given) -> None:
    """Check that the guide takes the data with their context.

    Raises:
        ValueError: if a context argument has fewer rows than x, or is missing.
    """
    few = given.first(PROBED)
    try:
        trace_guide(guide, *few, particles=1, enumerate=False)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        shapes = [tuple(value.shape) for value in given if isinstance(value, Tensor)]
        beside = f"the context {', '.join(map(str, shapes[1:]))}" if shapes[1:] else "no context"
        raise ValueError(
            f"the guide fails on x {shapes[0]} with {beside}: {one_line(error)}. Give x and the "
            "context that the VAE was trained with, a row for each datum: embed(x, *context)"
        ) from error


def posterior_means(
    guide: Program, given: Given, names: Sequence[str] | None = None
) -> dict[str, PosteriorMean]:
    r"""Return the posterior means of a guide's latent sites, for data in passes.

    $$ E_{q(z | x)}[z] = E_{q(u | x)} \big[ E_{q(z | u, x)}[z] \big], $$

    with u the sites sampled before z: without any the mean is exact, otherwise u is drawn 100
    times. The mean of a categorical site over C classes is that of its one-hot vector, the C
    probabilities of the classes.

    Args:
        guide: the program q(z | x).
        given: the data.
        names: the sites; all latent sites by default.

    Raises:
        ValueError: naming the site, if the guide does not sample it, or outside the plate over
            data.
        UndefinedMean: if a site has no mean, as a Cauchy distribution has none.

    References:
        Casella, Robert, 1996. Rao-Blackwellisation of Sampling Schemes.

    Example:
        >>> given = Given(torch.zeros(5, 64))
        >>> posterior_means(vae.guide, given)["z"].value.shape
        torch.Size([5, 2])
    """
    probe = trace_guide(guide, *given.first(PROBED), particles=1, enumerate=False)
    exact, latent = set(_exact(probe)), [name for name, _ in _latent(probe)]
    wanted = latent if names is None else list(names)
    for name in set(wanted) - set(latent):
        raise ValueError(f"the guide samples the sites {latent}; got site={name!r}: name one")
    particles = 1 if exact.issuperset(wanted) else MEAN_DRAWS
    pieces = []
    for part in given.passes(particles):
        trace = trace_guide(guide, *part, particles=particles, enumerate=False)
        for name in wanted:
            check_plates(name, trace.nodes[name], len(part))
        pieces.append([_mean(trace.nodes[name], exact=name in exact) for name in wanted])
    return {
        name: PosteriorMean(*map(torch.cat, zip(*found, strict=True)))
        for name, found in zip(wanted, zip(*pieces, strict=True), strict=True)
    }


def _latent(trace: Any) -> Iterator[tuple[str, Any]]:
    for name, site in sample_sites(trace):
        if not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            yield name, site


def _exact(trace: Any) -> Iterator[str]:
    """Yield the sites before which nothing random is sampled, and whose mean is known."""
    for name, site in sample_sites(trace):
        if _conditional_mean(site) is not None:
            yield name
        if not is_point_mass(site):
            return


def _mean(site: Any, *, exact: bool) -> PosteriorMean:
    """Return the mean over particles of a site's conditional means, or of its draws."""
    found = _conditional_mean(site)
    found = site["value"] if found is None else found
    found = found.reshape(*found.shape[:2], -1)
    if exact:
        return PosteriorMean(found[0], torch.zeros_like(found[0], dtype=torch.float64))
    draws = found.double()
    return PosteriorMean(draws.mean(0).to(found), draws.var(0) / len(draws))


def _conditional_mean(site: Any) -> Tensor | None:
    """Return the mean of a site given those before it, [K, N, ...]; None if it is not known."""
    fn = site["fn"]
    inner = innermost(fn)
    if isinstance(inner, Categorical):
        return inner.probs.reshape(*fn.batch_shape, *fn.event_shape, -1)
    try:
        _ = fn.mean
    except NotImplementedError:
        return None
    return mean_of(fn, f"q({site['name']} | x)", remedy="use the parameters of vae.encode(x)")
