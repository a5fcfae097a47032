"""Report what a VAE is worth on data: bounds with two errors each, per datum and on average.

Every number comes from one set of log-weights [K, N]. A mean over data has an error over data
(how another test set would differ) and an error over particles (how another seed would differ).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.data.batches import Batches
from pyrovae.data.datasets import drawn_once
from pyrovae.graphs.quiet import without_cuda_notice
from pyrovae.measure import unused_latents as unused
from pyrovae.measure.findings import Diagnostic, Finding, collect, concatenated
from pyrovae.measure.fingerprints import fingerprints
from pyrovae.measure.reading import ReadAll, by_dimension, closed_form, read_passes, reason
from pyrovae.measure.report import Report
from pyrovae.randomness import generators_kept, seeded
from pyrovae.types import Data, Target
from pyrovae.weights import psis
from pyrovae.weights.bounds import (
    Estimate,
    effective_sample_size,
    elbo_estimate,
    extrapolated_estimate,
    iwae_estimate,
    mean_estimate,
)
from pyrovae.weights.compiled import CompiledRun
from pyrovae.weights.given import Given
from pyrovae.weights.pair import Terms, TracePair
from pyrovae.weights.run import Runner, run
from pyrovae.weights.sites import is_auxiliary_draw, is_point_mass, sample_sites
from pyrovae.weights.target import (
    Resolved,
    device_of,
    evaluation_mode,
    safe_to_compile,
)
from pyrovae.weights.traces import trace_guide

SMALLEST_BATCH: Final = 100

UNCONSTRAINED: Final = "_unconstrained"
"""How Pyro's autoguides name the auxiliary site that they transform to a latent."""

COMPILED_FROM: Final = 2_000_000
"""The (particle, datum) pairs from which compiling, some seconds of it, pays by default."""


@torch.no_grad()
def evaluate(
    target: Target,
    data: Data,
    *,
    particles: int = 1000,
    ks: Sequence[int] | None = None,
    batch_size: int | None = None,
    seed: int | None = 0,
    compile: bool | None = None,
    diagnostics: Sequence[Diagnostic] = (),
) -> Report:
    """Measure a VAE, or any pair of Pyro programs, on data.

    What a diagnostic refuses to measure, or fails at, is said in the verdict, and keeps nothing
    else from it.
    An interrupt (Ctrl-C) keeps the batches, and the diagnostics, that are done: the report then
    says that it is partial.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: whatever `fit` takes. A dynamic split is binarized once, whatever the seed, so that
            two reports are of the same pixels.
        particles: K, the particles for each datum.
        ks: the k of the importance-weighted bounds; by default 10, 100, 1,000, ... and K.
        batch_size: the data in memory at once; it does not change what is estimated, though
            the draws at a seed depend on it. By default 100, and of tensors as many more as one
            pass holds: of small data at few particles a pass costs what Pyro's handlers cost,
            whatever is in it.
        compile: whether the passes are compiled (see `CompiledRun`); by default where
            there are 2,000,000 pairs of particle and datum or more, and the VAE is made of the
            library's parts.
        seed: of the particles alone; None draws from torch's generator as it stands.
        diagnostics: further measurements, called with the target and all the data once the report
            has its own numbers, each at the seed. What they find stands in `report.findings`.

    Raises:
        ValueError: for data that are empty, not finite or outside the likelihood's domain, a k
            above K, two diagnostics of one name, and as `log_weights`.
        KeyboardInterrupt: if the interrupt comes before the first batch is done.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024. Pareto Smoothed Importance Sampling.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=100)
        >>> report.elbo.mean < report.iwae[10].mean < report.iwae[100].mean
        True
    """
    ks = _levels(particles) if ks is None else list(ks)
    _check_levels(ks, particles)
    names = _names(diagnostics)
    resolved = Resolved.of(target)
    batches = Batches(drawn_once(data), batch_size or SMALLEST_BATCH, device=device_of(target))
    if batch_size is None and batches.tensors:
        batches = batches.in_order(_rows(batches.tensors[0], particles))
    if compile is None:
        long = (batches.number or 0) * batches.batch_size * particles >= COMPILED_FROM
        compile = long and safe_to_compile(target)
    runner = CompiledRun() if compile else run
    width, kept = 0, []
    points: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    probe, read = _Probe(), ReadAll(left_out)

    def measure(batch: tuple[Any, ...]) -> dict[str, Any]:
        nonlocal width, points
        given = resolved.given(*batch)
        # Copied once the large tensors are given back: what stays must not lie between them.
        found = copy.deepcopy(_measure(given, ks, particles=particles, runner=runner, read=read))
        points = points if width else _point_masses(given)
        found["cost_of_another"] = probe(given)
        width = batch[0][0].numel()
        if diagnostics:
            kept.append(batch)
        return found

    with resolved.evaluating(), seeded(seed), without_cuda_notice():
        done = collect(measure, batches, f"evaluating with {particles:,} particles")
    measured = concatenated(done.pieces)
    found, refused = _diagnose(target, kept, () if done.partial else diagnostics, seed)
    return Report(
        particles=particles,
        seed=seed,
        seconds=done.seconds,
        wanted=_size(batches) if done.partial else len(measured["elbo"].value),
        dimensions=width,
        domain=getattr(getattr(target, "likelihood", None), "domain", None),
        findings=found,
        unfinished=tuple(name for name in names if name not in found | refused),
        refused=left_out | refused,
        point_masses=points,
        **measured,
    )


def _rows(x: Tensor, particles: int) -> int:
    """Return how many data a pass holds at all particles, and no fewer than `SMALLEST_BATCH`."""
    return max(SMALLEST_BATCH, Given(x).per_pass(particles))


def _point_masses(given: Given) -> tuple[str, ...]:
    """Name the sites at which the guide is a Delta, and no transform of an auxiliary draw."""
    assert given.programs is not None
    with generators_kept():
        trace = trace_guide(given.programs[1], *given, particles=2)
    sites = dict(sample_sites(trace))
    points = tuple(name for name, site in sites.items() if is_point_mass(site))
    if any(is_auxiliary_draw(site) for site in sites.values()):
        return tuple(name for name in points if not _varies(sites[name]))
    return points


class _Probe:
    """How much log p(x | z) tells of z, from one more particle of the first data."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, given: Given) -> Tensor:
        """Return the cost of another's z, [N]; NaN of data that are not asked."""
        unknown = torch.full((len(given),), torch.nan)
        asked, self.asked = self.asked, self.asked + len(given)
        if asked >= unused.ASKED or given.programs is None:
            return unknown
        with generators_kept():
            pair = TracePair.run(*given.programs, *given, particles=1)
            return unused.cost_of_another(given.programs[0], pair, given).cpu()


def _varies(site: Any) -> bool:
    """Tell whether two particles differ at a site."""
    one, other = site["value"].unbind(site["value"].ndim - 2 - site["fn"].event_dim)
    return not torch.equal(one, other)


def _measure(
    given: Given, ks: Sequence[int], *, particles: int, runner: Runner, read: ReadAll
) -> dict[str, Any]:
    """Measure a batch; of what stands beside the bounds, `read` says why it is missing."""
    reading = read_passes(given, particles, runner, read)
    terms, log_w = reading.terms, reading.terms.log_w
    smoothed, shape = read.beside("Pareto smoothing", lambda: psis.psis(log_w)) or (
        None,
        torch.full_like(log_w[0], torch.nan),
    )
    return {
        "elbo": elbo_estimate(log_w),
        "iwae": {k: iwae_estimate(log_w, k) for k in ks},
        "psis": None if smoothed is None or particles < psis.FEWEST else iwae_estimate(smoothed),
        "extrapolated": read.beside("extrapolated", lambda: extrapolated_estimate(log_w))
        if particles > 1
        else None,
        "reconstruction": mean_estimate(terms.log_likelihood),
        "monte_carlo_kl": mean_estimate(terms.rate),
        "closed_form_kl": closed_form(given, reading, read),
        "site_rates": _site_rates(terms),
        "kl_per_dimension": by_dimension(given, reading, read),
        "effective_sample_size": effective_sample_size(log_w),
        "pareto_k": shape,
        "fingerprint": fingerprints(given.x, *given.own),
        "entries": reading.entries["all"].round().long().cpu(),
    }


def _site_rates(terms: Terms) -> dict[str, Estimate]:
    """Return the parts of the rate by site; sites that have no partner stand together."""
    shared = [name for name in terms.prior if name in terms.guide]
    rates = {name: terms.guide[name] - terms.prior[name] for name in shared}
    guide = {name: term for name, term in terms.guide.items() if name not in shared}
    for name in [name for name in guide if name.removesuffix(UNCONSTRAINED) in shared]:
        rates[name.removesuffix(UNCONSTRAINED)] += guide.pop(name)
    prior = {name: term for name, term in terms.prior.items() if name not in shared}
    if guide or prior:
        rates["+".join(prior or guide)] = Terms(prior, {}, guide).rate
    return {name: mean_estimate(rate) for name, rate in rates.items()}


def _diagnose(
    target: Target,
    batches: list[tuple[Any, ...]],
    diagnostics: Sequence[Diagnostic],
    seed: int | None,
) -> tuple[dict[str, Finding], dict[str, str]]:
    """Return what diagnostics find of all the data, up to an interrupt, and why some cannot.

    The bounds are measured by then, and took long: what one diagnostic refuses, or fails at for
    want of memory, must not lose them.
    """
    found: dict[str, Finding] = {}
    refused: dict[str, str] = {}
    if not diagnostics:
        return found, refused
    x, *context = _whole(batches)
    try:
        for diagnostic in diagnostics:
            try:
                with evaluation_mode(target), seeded(seed):
                    found[diagnostic.name] = diagnostic(target, x, *context)
            except (ValueError, RuntimeError) as error:
                refused[diagnostic.name] = reason(error)
                continue
            if found[diagnostic.name].partial:
                break
    except KeyboardInterrupt:
        pass
    return found, refused


def _whole(batches: list[tuple[Any, ...]]) -> list[Any]:
    """Put batches together; a context without a row for each datum is taken from the first."""

    def per_datum(value: Any, batch: tuple[Any, ...]) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(batch[0])

    return [
        torch.cat(values) if all(map(per_datum, values, batches)) else values[0]
        for values in zip(*batches, strict=True)
    ]


def _names(diagnostics: Sequence[Diagnostic]) -> list[str]:
    several = isinstance(diagnostics, list | tuple)
    bad = [d for d in (diagnostics if several else [diagnostics]) if not _is_diagnostic(d)]
    if bad or not several:
        raise ValueError(
            "diagnostics are a list of measurements with their settings, such as [pv.Latents()]; "
            f"got {(bad or [diagnostics])[0]!r}"
        )
    names = [diagnostic.name for diagnostic in diagnostics]
    if len(set(names)) < len(names):
        raise ValueError(
            f"diagnostics are kept by their names, each of which stands once; got {names}: "
            "evaluate once for each"
        )
    return names


def _is_diagnostic(value: Any) -> bool:
    return (
        callable(value)
        and isinstance(getattr(value, "name", None), str)
        and not isinstance(value, type)
    )


def _size(batches: Batches) -> int | None:
    return len(batches.tensors[0]) if batches.tensors else None


def _levels(particles: int) -> list[int]:
    powers = [10**i for i in range(1, 10) if 10**i < particles]
    return [*powers, particles] if particles > 1 else []


def _check_levels(ks: Sequence[int], particles: int) -> None:
    if particles < 1:
        raise ValueError(f"evaluate needs at least one particle; got particles={particles}")
    bad = [k for k in ks if not 1 <= k <= particles]
    if bad:
        raise ValueError(
            f"IWAE-k needs 1 <= k <= K; got k in {bad} with K = {particles}: draw more particles"
        )
