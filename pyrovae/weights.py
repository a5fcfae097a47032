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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.data import check_finite

Program = Callable[..., Any]
Sites = dict[str, Tensor]

PARTICLES: Final = "particles"
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
) -> Tensor:
    """Draw K particles for each datum and return their log-weights [K, N], in nats.

    Args:
        model: a Pyro program of (x, *context) that scores x in a plate over data at dim -1.
        guide: a Pyro program of the same arguments that samples every latent of the model.
        x: data [N, ...].
        *context: further arguments. A tensor with N rows is cut along with x.
        particles: K.
        chunk: the most (particle, datum) pairs in one pass; it bounds the memory, not the
            result. Data are cut first, so the guide's network runs once for each datum unless
            K itself is above the chunk. By default it adapts to the size of x.

    Raises:
        ValueError: for data that are empty or not finite, fewer than one particle, latents that
            only one of the programs samples, a site outside the plate over data, or a site
            whose batch shape is not [K, N]. The error names the site.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> log_weights(vae.model, vae.guide, torch.zeros(5, 64), particles=100).shape
        torch.Size([100, 5])
    """
    columns = [
        torch.cat([piece.log_w for piece in pieces])
        for pieces in _passes(model, guide, x, context, particles=particles, chunk=chunk)
    ]
    return torch.cat(columns, dim=1)


def log_weight_terms(
    model: Program,
    guide: Program,
    x: Tensor,
    *context: Any,
    particles: int,
    chunk: int | None = None,
) -> Terms:
    """Return the log-weights by site: arguments and errors as of `log_weights`."""
    columns = [
        _concatenate(list(pieces), dim=0)
        for pieces in _passes(model, guide, x, context, particles=particles, chunk=chunk)
    ]
    return _concatenate(columns, dim=1)


def iterate_log_weights(
    model: Program, guide: Program, x: Tensor, *context: Any, particles: int, chunk: int
) -> Iterator[Tensor]:
    """Yield the log-weights in rows [K_i, N] with K_i N <= chunk, for bounds with very large K.

    The rows go to `bounds.streaming_log_mean_exp`, and the memory does not grow with K.

    Raises:
        ValueError: as `log_weights`.
    """
    _check_request(x, particles, chunk)
    for rows in _cut(particles, max(1, chunk // len(x))):
        yield run(model, guide, x, *context, particles=len(rows)).log_w


def run(model: Program, guide: Program, x: Tensor, *context: Any, particles: int) -> Terms:
    """Run both programs once on all of x and return the terms by site."""
    model_trace, guide_trace = trace_pair(model, guide, x, *context, particles=particles)
    shape = (particles, len(x))
    latent = {name: site for name, site in sample_sites(model_trace) if not site["is_observed"]}
    observed = {name: site for name, site in sample_sites(model_trace) if site["is_observed"]}
    sampled = dict(sample_sites(guide_trace))
    enumerated = [
        name for name, site in (latent | sampled).items() if _enumeration_dim(site) is not None
    ]
    terms = Terms(
        prior={name: _log_prob(site) for name, site in latent.items()},
        likelihood={name: _log_prob(site) for name, site in observed.items()},
        guide={n: _log_prob(site) for n, site in sampled.items() if n not in enumerated},
    )
    dims = {_enumeration_dim(site) for site in (latent | sampled).values()} - {None}
    for sites in (terms.prior, terms.likelihood, terms.guide):
        for name, log_prob in sites.items():
            _check_shape(name, log_prob.shape, shape, dims)
    return _sum_out(terms, enumerated, shape) if enumerated else terms


def trace_pair(
    model: Program, guide: Program, x: Tensor, *context: Any, particles: int
) -> tuple[Any, Any]:
    """Trace the guide, then the model on the guide's draws, under a plate of K particles.

    Raises:
        ValueError: if the two sample different latents, or a site is outside the plate of data.
    """
    guide = EnumMessenger(first_available_dim=-3)(_over_particles(guide, particles))
    model = EnumMessenger()(_over_particles(model, particles))
    with _advice_on_shapes():
        guide_trace = poutine.trace(guide).get_trace(x, *context)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(x, *context)
    _check_latents(model_trace, guide_trace)
    for trace in (guide_trace, model_trace):
        for name, site in sample_sites(trace):
            _check_plates(name, site, len(x))
    return model_trace, guide_trace


def sample_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the sites that carry a density: not the plates' indices, not deterministic values."""
    for name, site in trace.nodes.items():
        deterministic = site.get("infer") and site["infer"].get("_deterministic")
        if site["type"] == "sample" and not site_is_subsample(site) and not deterministic:
            yield name, site


def _over_particles(program: Program, particles: int) -> Program:
    def vectorized(*args: Any) -> None:
        with pyro.plate(PARTICLES, particles, dim=-2):
            program(*args)

    return vectorized


@contextlib.contextmanager
def _advice_on_shapes() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "Shape mismatch inside plate" in str(error) or "ollide" in str(error):
            raise ValueError(
                f"{str(error).splitlines()[0]}: every site has batch shape [N] in the plate over "
                "data at dim -1 (dim -2 holds the particles); declare what is left with "
                ".to_event(...)"
            ) from error
        raise


def _passes(
    model: Program,
    guide: Program,
    x: Tensor,
    context: tuple[Any, ...],
    *,
    particles: int,
    chunk: int | None,
) -> Iterator[Iterator[Terms]]:
    """Cut the data first, then the particles; yield the pieces of each cut of the data."""
    chunk = _check_request(x, particles, chunk)
    for columns in _cut(len(x), max(1, chunk // particles)):
        here = slice(columns.start, columns.stop)
        part = [_rows_of(value, here, len(x)) for value in (x, *context)]
        yield (
            run(model, guide, *part, particles=len(rows))
            for rows in _cut(particles, max(1, chunk // len(columns)))
        )


def _check_request(x: Tensor, particles: int, chunk: int | None) -> int:
    check_finite(x)
    if particles < 1:
        raise ValueError(f"log-weights need at least one particle; got particles={particles}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk is at least one (particle, datum) pair; got chunk={chunk}")
    return chunk or max(1, NUMBERS_PER_PASS // max(256, x[0].numel()))


def _cut(length: int, size: int) -> list[range]:
    return [range(i, min(i + size, length)) for i in range(0, length, size)]


def _rows_of(value: Any, rows: slice, length: int) -> Any:
    per_datum = isinstance(value, Tensor) and value.ndim > 0 and len(value) == length
    return value[rows] if per_datum else value


def _log_prob(site: Any) -> Tensor:
    fn, value = site["fn"], site["value"]
    event = fn.event_shape
    met = value.shape[value.ndim - len(event) :]
    if met != event:
        raise ValueError(
            f"site '{site['name']}' has event shape {tuple(event)}; got a value of shape "
            f"{tuple(value.shape)}: reshape the data, or the output of the network"
        )
    try:
        log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"site '{site['name']}' cannot score its value: {error}") from error
    return cast(Tensor, scale_and_mask(log_prob, mask=site["mask"]))


def _enumeration_dim(site: Any) -> int | None:
    return cast("int | None", site["infer"].get("_enumerate_dim"))


def _sum_out(terms: Terms, enumerated: list[str], shape: tuple[int, int]) -> Terms:
    """Sum the enumerated sites out of the joint, and average each term over their posterior."""
    joint = torch.as_tensor(_total(terms.prior | terms.likelihood) - _total(terms.guide))
    full = torch.broadcast_shapes(joint.shape, shape)
    log_posterior = joint.expand(full).reshape(-1, *shape).log_softmax(0)
    posterior = log_posterior.exp()

    def average(term: Tensor) -> Tensor:
        spread = term.expand(full).reshape(-1, *shape)
        return torch.where(posterior > 0, posterior * spread, 0.0).sum(0)

    def averages(sites: Sites) -> Sites:
        return {name: average(term) for name, term in sites.items()}

    summed = {"+".join(enumerated): average(log_posterior.reshape(full))}
    return Terms(averages(terms.prior), averages(terms.likelihood), averages(terms.guide) | summed)


def _total(sites: Sites) -> Any:
    return sum(sites.values())


def _concatenate(pieces: list[Terms], dim: int) -> Terms:
    def joined(role: str) -> Sites:
        parts = [getattr(piece, role) for piece in pieces]
        return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}

    return Terms(joined("prior"), joined("likelihood"), joined("guide"))


def _check_latents(model_trace: Any, guide_trace: Any) -> None:
    model = {
        name
        for name, site in sample_sites(model_trace)
        if not site["is_observed"] and _enumeration_dim(site) is None
    }
    guide = {
        name for name, site in sample_sites(guide_trace) if not site["infer"].get("is_auxiliary")
    }
    observed = {name for name, site in sample_sites(model_trace) if site["is_observed"]}
    for name in model & guide:
        _check_event_dims(name, model_trace.nodes[name]["fn"], guide_trace.nodes[name]["fn"])
    missing = sorted(model - guide)
    extra = sorted((guide - {name for name, _ in sample_sites(model_trace)}) | (guide & observed))
    if missing:
        raise ValueError(
            f"the model samples the sites {sorted(model)} but the guide does not sample "
            f"{missing}: add pyro.sample statements of these names to the guide"
        )
    if extra:
        raise ValueError(
            f"the guide samples {extra}, which the model does not: its latent sites are "
            f"{sorted(model)}. Rename them, or mark them infer={{'is_auxiliary': True}}"
        )


def _check_event_dims(name: str, model_fn: Any, guide_fn: Any) -> None:
    if model_fn.event_dim != guide_fn.event_dim:
        raise ValueError(
            f"site '{name}' has {model_fn.event_dim} event dimensions in the model but "
            f"{guide_fn.event_dim} in the guide: declare the same with .to_event(...) in both"
        )


def _check_plates(name: str, site: Any, size: int) -> None:
    frames = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    if -1 not in frames:
        raise ValueError(
            f"site '{name}' is sampled outside the plate over data: put it inside "
            'pyro.plate("data", len(x), dim=-1), so that each datum has a weight of its own'
        )
    if frames[-1].size != size:
        raise ValueError(
            f"site '{name}' is in plate '{frames[-1].name}' of size {frames[-1].size}, but x has "
            f"{size} rows: size the plate by len(x)"
        )
    others = [frame.name for dim, frame in frames.items() if dim < -2]
    if others:
        raise ValueError(
            f"site '{name}' is in the plates {others} beside those over particles and data: "
            "declare these dimensions with .to_event(...)"
        )


def _check_shape(
    name: str, met: torch.Size, wanted: tuple[int, int], dims: set[int | None]
) -> None:
    stray = [d for d in range(-len(met), -2) if met[d] > 1 and d not in dims]
    if met[-2:] != wanted or stray:
        raise ValueError(
            f"site '{name}' has log-probabilities of shape {tuple(met)}; expected [K, N] = "
            f"{tuple(wanted)}: declare the other dimensions with .to_event(...)"
        )
