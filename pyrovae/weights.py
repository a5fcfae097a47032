r"""Run the two programs on K particles at once and score every site.

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)        shape [K particles, N data]

This is the only file that runs traces to measure. The particles are a plate of size K at dim -2,
left of the plate over data at dim -1. Log-probabilities are read unscaled, masks kept: a KL
weight, a subsampling scale or a tempered objective cannot reach a reported number. A discrete
site marked `infer={"enumerate": "parallel"}` is summed out exactly,

    log_w = log sum_c p(x, z_c, c) / q(z_c | x, c),

whether the model or the guide samples it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyrovae.auxiliary import check_guide, check_transform
from pyrovae.data import check_finite
from pyrovae.particles import over_particles
from pyrovae.randomness import seeded
from pyrovae.sites import (
    advice_on_shapes,
    check_latents,
    check_plates,
    check_shape,
    enumeration_dim,
    log_prob,
    plate_size,
    sample_sites,
)

Program = Callable[..., Any]
Runner = Callable[..., "Terms"]
Sites = dict[str, Tensor]
Place = tuple[slice, slice]

NUMBERS_PER_PASS: Final = 2**22
"""How many numbers of x (or of a layer as wide) one pass holds when no chunk is given: 16 MiB."""


@dataclass(frozen=True)
class Terms:
    """The log-weights taken apart by site; every tensor has shape [K, N], in nats.

    Attributes:
        prior: log p of each latent site in the model.
        likelihood: log p of each observed site.
        guide: log q of each site of the guide. Sites summed out stand under one entry, their
            names joined by "+": the exact conditional that makes the parts add up to log_w.
    """

    prior: Sites
    likelihood: Sites
    guide: Sites

    @property
    def rate(self) -> Tensor:
        """The log-ratio log q(z | x) - log p(z): a one-sample estimate of the KL divergence."""
        return _total(self.guide) - _total(self.prior)

    @property
    def log_likelihood(self) -> Tensor:
        """The term log p(x | z): the negative distortion."""
        return torch.as_tensor(_total(self.likelihood))

    @property
    def log_w(self) -> Tensor:
        """The log-weight log p(x, z) - log q(z | x)."""
        return self.log_likelihood - self.rate


def log_weights(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: Any,
    particles: int,
    chunk: int | None = None,
    runner: Runner | None = None,
) -> Tensor:
    """Draw K particles for each datum and return their log-weights [K, N], in nats.

    Args:
        model: a Pyro program of (x, *context) that scores x in a plate over data at dim -1.
        guide: a Pyro program of the same arguments that samples every latent of the model.
        x: data [N, ...].
        *context: further arguments. A tensor with N rows is cut along with x, unless the programs
            show that all data share it.
        particles: K.
        chunk: the most (particle, datum) pairs in one pass; it bounds the memory. The draws at a
            seed depend on it, what they estimate does not. Data are cut first, so the guide's
            network runs once for each datum unless K itself is above the chunk. By default it
            adapts to the size of x.
        runner: what runs a pass: `run`, or a `CompiledRun` that is kept from call to call.

    Raises:
        ValueError: for data that are empty or not finite, fewer than one particle, latents that
            only one of the programs samples, a site outside the plate over data, or a site
            whose batch shape is not [K, N]. The error names the site.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.VAE.mlp(64, latents=2, hidden=16)
        >>> pv.log_weights(vae.model, vae.guide, torch.zeros(5, 64), particles=100).shape
        torch.Size([100, 5])
    """
    whole: Sites = {}
    for place, piece in _passes(runner or run, (model, guide), (x, context), particles, chunk):
        _fill(whole, {"log_w": piece.log_w}, place, (particles, len(x)))
    return whole["log_w"]


def log_weight_terms(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: Any,
    particles: int,
    chunk: int | None = None,
    runner: Runner | None = None,
) -> Terms:
    """Return the log-weights by site: arguments and errors as of `log_weights`."""
    whole = Terms({}, {}, {})
    for place, piece in _passes(runner or run, (model, guide), (x, context), particles, chunk):
        shape = particles, len(x)
        _fill(whole.prior, piece.prior, place, shape)
        _fill(whole.likelihood, piece.likelihood, place, shape)
        _fill(whole.guide, piece.guide, place, shape)
    return whole


def iterate_log_weights(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: Any,
    particles: int,
    chunk: int,
    runner: Runner | None = None,
) -> Iterator[Tensor]:
    """Yield the log-weights in rows [K_i, N] with K_i N <= chunk, for bounds with very large K.

    The rows go to `bounds.streaming_log_mean_exp`, and the memory does not grow with K.
    Arguments are as of `log_weights`; with a `CompiledRun` each pass is one compiled graph.

    Raises:
        ValueError: as `log_weights`.

    Example:
        >>> rows = iterate_log_weights(vae.model, vae.guide, x, particles=100, chunk=50)
        >>> [len(few) for few in rows]
        [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """
    _check_request(x, particles, chunk)
    for rows in _cut(particles, max(1, chunk // len(x))):
        yield (runner or run)(model, guide, x, *context, particles=len(rows)).log_w


def run(model: Program, guide: Program, x: Tensor, *context: Any, particles: int) -> Terms:
    """Run both programs once on all of x and return the terms by site."""
    model_trace, guide_trace = trace_pair(model, guide, x, *context, particles=particles)
    again = functools.partial(trace_guide, guide, x, *context, particles=1)
    check_transform(model_trace, guide_trace, lambda given: again(given=given))
    shape = (particles, len(x))
    for name, site in sample_sites(model_trace):
        check_plates(name, site, len(x))
    latent = {name: site for name, site in sample_sites(model_trace) if not site["is_observed"]}
    observed = {name: site for name, site in sample_sites(model_trace) if site["is_observed"]}
    sampled = dict(sample_sites(guide_trace))
    enumerated = [
        name for name, site in (latent | sampled).items() if enumeration_dim(site) is not None
    ]
    terms = Terms(
        prior={name: log_prob(site) for name, site in latent.items()},
        likelihood={name: log_prob(site) for name, site in observed.items()},
        guide={n: log_prob(site) for n, site in sampled.items() if n not in enumerated},
    )
    dims = {enumeration_dim(site) for site in (latent | sampled).values()} - {None}
    for sites in (terms.prior, terms.likelihood, terms.guide):
        for name, term in sites.items():
            check_shape(name, term.shape, shape, dims)
    return _sum_out(terms, enumerated, shape) if enumerated else terms


def trace_pair(model: Program, guide: Program, *args: Any, particles: int) -> tuple[Any, Any]:
    """Trace the guide, then the model on the guide's draws, under a plate of K particles.

    Raises:
        ValueError: as `check_pair`.
    """
    guide_trace = trace_guide(guide, *args, particles=particles)
    check_guide(guide_trace)  # A model cannot be run at the values of a guide that observes some.
    model_trace = trace_model(model, *args, particles=particles, given=guide_trace)
    check_pair(model_trace, guide_trace)
    return model_trace, guide_trace


def check_pair(model_trace: Any, guide_trace: Any) -> None:
    """Hold the traces of the two programs against each other.

    Raises:
        ValueError: if the two sample different latents, or a site is outside the plate of data.
    """
    check_guide(guide_trace)
    check_latents(model_trace, guide_trace)
    if not any(sample_sites(model_trace)):
        raise ValueError("the model samples nothing: it has no site whose value could be scored")
    sites = [*sample_sites(guide_trace), *sample_sites(model_trace)]
    for name, site in sites:
        check_plates(name, site, plate_size(*sites[0]))


def trace_guide(guide: Program, *args: Any, particles: int, given: Any = None) -> Any:
    """Trace a guide under a plate of K particles, at the values of an earlier trace if given."""
    guide = EnumMessenger(first_available_dim=-3)(over_particles(guide, particles))
    return _traced(guide if given is None else poutine.replay(guide, trace=given), args)


def trace_model(model: Program, *args: Any, particles: int, given: Any) -> Any:
    """Trace a model under a plate of K particles at the values of a guide's trace."""
    model = EnumMessenger()(over_particles(model, particles))
    return _traced(poutine.replay(model, trace=given), args)


def _traced(program: Program, args: tuple[Any, ...]) -> Any:
    with advice_on_shapes():
        return poutine.trace(program).get_trace(*args)


def _passes(
    runner: Runner,
    programs: tuple[Program, Program],
    data: tuple[Tensor, tuple[Any, ...]],
    particles: int,
    chunk: int | None,
) -> Iterator[tuple[Place, Terms]]:
    """Cut the data first, then the particles; yield each pass with its place in [K, N]."""
    chunk = _check_request(data[0], particles, chunk)
    size = max(1, chunk // particles)
    parts = cut_data(*data, size, pair=programs)
    for columns, part in zip(_cut(len(data[0]), size), parts, strict=True):
        for rows in _cut(particles, max(1, chunk // len(columns))):
            place = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
            yield place, runner(*programs, *part, particles=len(rows))


def _fill(whole: Sites, part: Sites, place: Place, shape: tuple[int, int]) -> None:
    """Write what a pass found where it belongs, and keep nothing of the pass itself.

    A small tensor kept from each pass would stand in the heap between the large ones that are
    given back, which then fit nowhere: the memory would grow with the number of passes.
    """
    if whole and whole.keys() != part.keys():
        raise ValueError(
            f"the sites differ from pass to pass: {sorted(whole)}, then {sorted(part)}; "
            "log-weights need programs with the same sites for all data"
        )
    for name, term in part.items():
        if name not in whole:
            whole[name] = term.new_empty(shape)
        whole[name][place] = term


def cut_data(
    x: Tensor,
    context: tuple[Any, ...],
    size: int,
    *,
    first: int | None = None,
    pair: tuple[Program, Program] | None = None,
) -> Iterator[list[Any]]:
    """Yield x and its context in pieces of at most `size` rows; all of them, or the first.

    A tensor with N rows has one for each datum, unless the two programs, if they are given, show
    that all data share it.
    """
    end = len(x) if first is None else min(first, len(x))
    own = [isinstance(value, Tensor) and value.shape[:1] == x.shape[:1] for value in context]
    if pair is not None and any(own) and (end < len(x) or size < len(x)):
        own = _rows_of_their_own(pair, x, context, own)
    for columns in _cut(end, size):
        here = slice(columns.start, columns.stop)
        yield _part(x, context, own, here)


def _part(x: Tensor, context: tuple[Any, ...], own: Sequence[bool], rows: slice) -> list[Any]:
    both = zip(context, own, strict=True)
    return [x[rows], *(value[rows] if mine else value for value, mine in both)]


def _rows_of_their_own(
    pair: tuple[Program, Program], x: Tensor, context: tuple[Any, ...], own: list[bool]
) -> list[bool]:
    """Tell which tensors of N rows have one for each datum, by two data with them cut or whole.

    What has a row for each datum does not fit two data if it is left whole, and what all data
    share does not if it is cut, or makes something else of them.
    """
    few = slice(0, min(2, len(x) - 1))
    ways = [
        [mine and not whole for mine, whole in zip(own, choice, strict=True)]
        for choice in itertools.product(*[(False, True) if mine else (False,) for mine in own])
    ]
    found: list[tuple[list[bool], Tensor]] = []
    for way in ways:
        with contextlib.suppress(Exception), seeded(0), torch.no_grad(), poutine.block():
            found.append((way, run(*pair, *_part(x, context, way, few), particles=1).log_w))
    if not found:
        return own
    _, shared = min(found, key=lambda pair: sum(pair[0]))
    same = [way for way, log_w in found if torch.allclose(log_w, shared, equal_nan=True)]
    return max(same, key=sum)


def _check_request(x: Tensor, particles: int, chunk: int | None) -> int:
    check_finite(x)
    if particles < 1:
        raise ValueError(f"log-weights need at least one particle; got particles={particles}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk is at least one (particle, datum) pair; got chunk={chunk}")
    return chunk or max(1, NUMBERS_PER_PASS // max(256, x[0].numel()))


def _cut(length: int, size: int) -> list[range]:
    return [range(i, min(i + size, length)) for i in range(0, length, size)]


def _sum_out(terms: Terms, enumerated: list[str], shape: tuple[int, int]) -> Terms:
    """Sum the enumerated sites out of the joint, and average each term over their posterior.

    A class that is impossible has no part in the averages, nor in their gradients, where a term
    of minus infinity would make 0 times infinity. Where all are, the averages are over all, and
    the impossible term says so.
    """
    joint = torch.as_tensor(_total(terms.prior | terms.likelihood) - _total(terms.guide))
    full = torch.broadcast_shapes(joint.shape, shape)
    joint = joint.expand(full).reshape(-1, *shape)
    impossible = (joint == -torch.inf).all(0)
    log_posterior = torch.where(impossible, 0.0, joint).log_softmax(0)
    posterior = log_posterior.exp()

    def average(term: Tensor) -> Tensor:
        spread = term.expand(full).reshape(-1, *shape)
        return (posterior * torch.where(posterior != 0, spread, 0.0)).sum(0)

    def averages(sites: Sites) -> Sites:
        return {name: average(term) for name, term in sites.items()}

    summed = {"+".join(enumerated): average(log_posterior.reshape(full))}
    return Terms(averages(terms.prior), averages(terms.likelihood), averages(terms.guide) | summed)


def _total(sites: Sites) -> Any:
    return sum(sites.values())
