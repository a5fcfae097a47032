"""Report what a VAE is worth on data: bounds with two errors each, per datum and on average.

Every number comes from one set of log-weights [K, N]. A mean over data has an error over data
(how another test set would differ) and an error over particles (how another seed would differ).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae import pareto, unused
from pyrovae.bounds import (
    Estimate,
    effective_sample_size,
    elbo_estimate,
    extrapolated_estimate,
    iwae_estimate,
    mean_estimate,
)
from pyrovae.compiled_run import CompiledRun
from pyrovae.data import Batches, drawn_once, seeded
from pyrovae.findings import Diagnostic, Finding, collect, join
from pyrovae.fingerprints import fingerprints
from pyrovae.kl import closed_form_rates, dimension_rates
from pyrovae.observed import entries
from pyrovae.quiet import without_cuda_notice
from pyrovae.randomness import generators_kept
from pyrovae.report import Report
from pyrovae.sites import is_auxiliary_draw, is_point_mass, sample_sites
from pyrovae.vae import check_data, device_of, evaluation_mode, programs, safe_to_compile
from pyrovae.weights import (
    NUMBERS_PER_PASS,
    Runner,
    Terms,
    cut_data,
    log_weight_terms,
    run,
    trace_guide,
    trace_pair,
)

KL_PARTICLES: Final = 10

SMALLEST_BATCH: Final = 100

UNCONSTRAINED: Final = "_unconstrained"
"""How Pyro's autoguides name the auxiliary site that they transform to a latent."""

COMPILED_FROM: Final = 2_000_000
"""The (particle, datum) pairs from which compiling, some seconds of it, pays by default."""


@torch.no_grad()
def evaluate(
    target: Any,
    data: Any,
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
        data: whatever `fit` takes. A dynamic split is binarised once, whatever the seed, so that
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
        >>> vae = pv.VAE.mlp(64, latents=2, hidden=16)
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=100)
        >>> report.elbo.mean < report.iwae[10].mean < report.iwae[100].mean
        True
    """
    ks = _levels(particles) if ks is None else list(ks)
    _check_levels(ks, particles)
    names = _names(diagnostics)
    batches = Batches(drawn_once(data), batch_size or SMALLEST_BATCH, device=device_of(target))
    if batch_size is None and batches.tensors:
        batches = batches.in_order(_rows(batches.tensors[0], particles))
    if compile is None:
        long = (batches.number or 0) * batches.batch_size * particles >= COMPILED_FROM
        compile = long and safe_to_compile(target)
    runner = CompiledRun() if compile else run
    width, kept = 0, []
    points: tuple[str, ...] = ()
    probe = _Probe(target)
    left_out: dict[str, str] = {}

    def measure(batch: tuple[Any, ...]) -> dict[str, Any]:
        nonlocal width, points
        check_data(target, *batch)
        # Copied once the large tensors are given back: what stays must not lie between them.
        found = copy.deepcopy(
            _measure(programs(target), batch, ks, drawing=(particles, runner), left_out=left_out)
        )
        points = points if width else _point_masses(target, batch)
        found |= probe(batch)
        width = batch[0][0].numel()
        if diagnostics:
            kept.append(batch)
        return found

    with evaluation_mode(target), seeded(seed), without_cuda_notice():
        done = collect(measure, batches, f"evaluating with {particles:,} particles")
    measured = _in_a_row(done.pieces)
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
    return max(SMALLEST_BATCH, NUMBERS_PER_PASS // (particles * max(256, x[0].numel())))


def _point_masses(target: Any, batch: tuple[Any, ...]) -> tuple[str, ...]:
    """Name the sites at which the guide is a Delta, and no transform of an auxiliary draw."""
    with generators_kept():
        trace = trace_guide(programs(target)[1], *batch, particles=2)
    sites = dict(sample_sites(trace))
    points = tuple(name for name, site in sites.items() if is_point_mass(site))
    if any(is_auxiliary_draw(site) for site in sites.values()):
        return tuple(name for name in points if not _varies(sites[name]))
    return points


class _Probe:
    """One more trace of a batch, at one draw: how much is scored, and what z tells of it."""

    def __init__(self, target: Any) -> None:
        self.pair, self.asked = programs(target), 0
        self.each: int | None = None

    def __call__(self, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        """Return entries and cost of another's z, [N] each; the latter of the first data alone."""
        asked, size = self.asked, len(batch[0])
        unknown = torch.full((size,), torch.nan)
        self.asked += size
        # Where the first data bear no mask, only a context can bring one later.
        if asked >= unused.ASKED and len(batch) == 1 and self.each is not None:
            return {"entries": torch.full((size,), self.each), "cost_of_another": unknown}
        with generators_kept():
            model_trace, guide_trace = trace_pair(*self.pair, *batch, particles=1)
            counts, self.each = entries(model_trace, size)
            if asked < unused.ASKED:
                unknown = unused.cost_of_another(self.pair[0], model_trace, guide_trace, *batch)
        return {"entries": counts.cpu(), "cost_of_another": unknown.cpu()}


def _varies(site: Any) -> bool:
    """Tell whether two particles differ at a site."""
    one, other = site["value"].unbind(site["value"].ndim - 2 - site["fn"].event_dim)
    return not torch.equal(one, other)


def _measure(
    pair: tuple[Any, Any],
    batch: tuple[Any, ...],
    ks: Sequence[int],
    *,
    drawing: tuple[int, Runner],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Measure a batch; of what stands beside the bounds, say in `left_out` why it is missing."""
    particles, runner = drawing
    terms = log_weight_terms(*pair, *batch, particles=particles, runner=runner)
    log_w = terms.log_w

    def beside(name: str, make: Callable[[], Any], missing: Any = None) -> Any:
        try:
            return make()
        except Exception as error:  # noqa: BLE001 (whatever it is, the bounds are there)
            left_out.setdefault(name, _reason(error))
            return missing

    unknown = None, torch.full_like(log_w[0], torch.nan)
    smoothed, shape = beside("Pareto smoothing", lambda: pareto.psis(log_w), unknown)
    few = smoothed is None or particles < pareto.FEWEST
    return {
        "elbo": elbo_estimate(log_w),
        "iwae": {k: iwae_estimate(log_w, k) for k in ks},
        "psis": None if few else iwae_estimate(smoothed),
        "extrapolated": beside("extrapolated", lambda: extrapolated_estimate(log_w))
        if particles > 1
        else None,
        "reconstruction": mean_estimate(terms.log_likelihood),
        "monte_carlo_kl": mean_estimate(terms.rate),
        "closed_form_kl": beside("KL, closed form", lambda: _closed_form(*pair, batch)),
        "site_rates": _site_rates(terms),
        "kl_per_dimension": beside("KL per dimension", lambda: _per_dimension(*pair, batch), {}),
        "effective_sample_size": effective_sample_size(log_w),
        "pareto_k": shape,
        "fingerprint": fingerprints(*batch),
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


def _closed_form(model: Any, guide: Any, batch: tuple[Any, ...]) -> Estimate | None:
    """Return the closed-form KL, None where none is known for these sites."""
    try:
        rates = [
            closed_form_rates(model, guide, *part, particles=KL_PARTICLES)
            for part in _for_kl(batch)
        ]
    except ValueError:
        return None
    return mean_estimate(torch.cat(rates, dim=1))


def _per_dimension(model: Any, guide: Any, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    return _in_a_row(
        [dimension_rates(model, guide, *part, particles=KL_PARTICLES) for part in _for_kl(batch)]
    )


def _for_kl(batch: tuple[Any, ...]) -> Iterator[list[Any]]:
    x, *context = batch
    size = max(1, NUMBERS_PER_PASS // (KL_PARTICLES * max(256, x[0].numel())))
    return cut_data(x, tuple(context), size)


def _in_a_row(values: list[Any]) -> Any:
    """Put what was found of successive data one after the other; None where any of it is."""
    first = values[0]
    if isinstance(first, dict):
        common = [key for key in first if all(key in value for value in values)]
        return {key: _in_a_row([value[key] for value in values]) for key in common}
    if any(value is None for value in values):
        return None
    return torch.cat(values) if isinstance(first, Tensor) else join(values)


def _diagnose(
    target: Any,
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
                refused[diagnostic.name] = _reason(error)
                continue
            if found[diagnostic.name].partial:
                break
    except KeyboardInterrupt:
        pass
    return found, refused


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"it failed ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"


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
