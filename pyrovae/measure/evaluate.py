"""Evaluate a VAE on data: estimate bounds on log p(x), each with two standard errors.

Bounds, rates and reconstruction come from one set of log-weights [K, N]. A mean over data has an
error over data (its variation between test sets) and an error over particles (its variation
between seeds).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pyrovae.data.batches import Batches
from pyrovae.data.datasets import drawn_once
from pyrovae.data.ranks import Ranks
from pyrovae.measure import undefined
from pyrovae.measure import unused_latents as unused
from pyrovae.measure.findings import Diagnostic, Finding
from pyrovae.measure.fingerprints import fingerprints
from pyrovae.measure.progress import concatenated
from pyrovae.measure.reading import (
    ReadAll,
    by_dimension,
    closed_form,
    notes_of,
    points_of,
    read_passes,
    reason,
)
from pyrovae.measure.report import Report
from pyrovae.measure.turns import Met, collect_in_turns
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
from pyrovae.weights.pair import Terms
from pyrovae.weights.run import Runner, run
from pyrovae.weights.target import (
    Resolved,
    device_of,
    evaluation_mode,
    intake_of,
    safe_to_compile,
)

__all__ = ["COMPILED_FROM", "SMALLEST_BATCH", "UNCONSTRAINED", "evaluate"]

SMALLEST_BATCH: Final = 100
"""The default number of data in a batch; tensors may go in larger batches."""

UNCONSTRAINED: Final = "_unconstrained"
"""The suffix that Pyro's autoguides give to the auxiliary site of a latent."""

COMPILED_FROM: Final = 2_000_000
"""The number of (particle, datum) pairs from which passes are compiled by default.

Compiling takes some seconds. The threshold is ours.
"""


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
    r"""Evaluate a VAE, or any pair of Pyro programs, on data.

    For each datum, with $w_k = p(x, z_k) / q(z_k | x)$ and $z_k \sim q(z | x)$, the report has the
    importance-weighted bounds

    $$ L_k = E \Big[ \log \frac1k \sum_{i=1}^k w_i \Big] \le \log p(x), $$

    of which the ELBO is $L_1$, and the parts of the ELBO: reconstruction and KL. All are in nats.

    Further diagnostics are objects, such as `AIS` or `Latents`; each adds a table and a
    one-paragraph verdict. A diagnostic that cannot be measured is left out with a warning and a
    sentence in the verdict. An interrupt (Ctrl-C) keeps the batches and the diagnostics that have
    finished; the report is then marked as partial.

    The processes of a group of `torch.distributed` share the batches, and those of AIS. Each has
    to call this, and gets the whole report, which does not depend on their number (see
    `pyrovae.data.ranks.alone` to evaluate in one of them).

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: any data that `fit` takes. A dynamic split is binarized once, independently of the
            seed, so that two reports measure the same pixels.
        particles: K, the number of particles for each datum.
        ks: the values of k for the importance-weighted bounds; by default 10, 100, 1,000, ... and
            K.
        batch_size: the number of data in memory at once. The estimates are of the same quantities
            for any size, but the draws at a given seed depend on it. By default 100, or more for
            tensors if a pass can hold more.
        compile: whether to compile the passes (see `CompiledRun`). By default they are compiled
            if there are 2,000,000 pairs of particle and datum or more and the VAE consists of the
            library's parts.
        seed: the seed of the particles and of each diagnostic; None uses torch's generator in its
            current state.
        diagnostics: further measurements, called with the target and all the data after the
            bounds are estimated. Their results are in `report.findings`.

    Raises:
        ValueError: if the data are empty, not finite or outside the likelihood's domain, if a k
            is not between 1 and K, if two diagnostics have the same name, and as `log_weights`.
        KeyboardInterrupt: if the interrupt comes before the first batch finishes.

    Warns:
        UserWarning: if a diagnostic cannot be measured.

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
    batches = _batches(data, target, particles, batch_size)
    runner = _runner(compile, target, batches, particles)
    measure = _Measurement(resolved, ks, particles, runner, keep=bool(diagnostics))
    with resolved.evaluating(), seeded(seed):
        met = measure.meet(batches)
        done = collect_in_turns(measure, met, f"evaluating with {particles:,} particles")
    measure.share()
    measured = concatenated(done.pieces)
    if measure.certain:
        measured |= {"psis": None, "extrapolated": None}
    found, refused = _diagnose(target, measure.kept, () if done.partial else diagnostics, seed)
    for name, why in refused.items():
        warnings.warn(f"diagnostic '{name}' was not measured: {why}", stacklevel=3)
    return Report(
        particles=particles,
        seed=seed,
        seconds=done.seconds,
        wanted=_size(batches) if done.partial else len(measured["elbo"].value),
        dimensions=measure.width,
        domain=getattr(getattr(target, "likelihood", None), "domain", None),
        findings=found,
        unfinished=tuple(name for name in names if name not in found | refused),
        refused=measure.left_out | refused,
        point_masses=measure.points,
        notes=notes_of(measure.certain),
        **measured,
    )


def _batches(data: Data, target: Target, particles: int, batch_size: int | None) -> Batches:
    """Return the data in batches, on the device of the target's parameters."""
    device, intake = device_of(target), intake_of(target)
    size = batch_size or SMALLEST_BATCH
    batches = Batches(drawn_once(data), size, device=device, intake=intake)
    if batch_size is None and batches.rows:
        rows = Given(batches.rows[0][:1]).per_pass(particles)
        return batches.in_order(max(SMALLEST_BATCH, rows))
    return batches


def _runner(compiled: bool | None, target: Target, batches: Batches, particles: int) -> Runner:  # noqa: FBT001
    """Return what runs a pass: compiled if asked for, or by default if it is long."""
    if compiled is None:
        long = (batches.number or 0) * batches.batch_size * particles >= COMPILED_FROM
        compiled = long and safe_to_compile(target)
    return CompiledRun() if compiled else run


class _Measurement:
    """Measure one batch after another.

    Attributes:
        kept: the batches, if they are kept for diagnostics.
        left_out: why a quantity was not measured, by name.
        points: the sites at which the guide is a point mass.
        certain: the sites of which the guide gives one value probability one, as of codes.
        width: the number of entries of x; 0 before the first batch.
    """

    def __init__(
        self, resolved: Resolved, ks: Sequence[int], particles: int, runner: Runner, *, keep: bool
    ) -> None:
        self.kept: list[Given] = []
        self.left_out: dict[str, str] = {}
        self.points: tuple[str, ...] = ()
        self.certain: tuple[str, ...] = ()
        self.width = 0
        self._resolved, self._keep = resolved, keep
        read = ReadAll(self.left_out)
        self._measure = lambda given: _measure(
            given, ks, particles=particles, runner=runner, read=read
        )

    def __call__(self, met: tuple[int, Given]) -> dict[str, Any]:
        """Return the estimates and per-datum tensors of a batch, by name.

        The batch comes with the number of data before it.
        """
        before, given = met
        # Copied after the large tensors are freed, so that the results do not fragment the heap.
        found = copy.deepcopy(self._measure(given))
        if not self.width:
            self.points, self.certain = points_of(given)
        found["cost_of_another"] = self._cost_of_another(given, before)
        self.width = given.x[0].numel()
        return found

    def meet(self, batches: Batches) -> Met:
        """Return the batches with the number of data before each, and keep them if asked to."""
        return Met(batches, self._resolved, self.kept if self._keep else None)

    def share(self) -> None:
        """Take what rank 0 found of the whole, and why any process left out a quantity."""
        several = Ranks.present().gathered((self.left_out, self.points, self.certain, self.width))
        for left_out, *_ in reversed(several):
            self.left_out.update(left_out)
        _, self.points, self.certain, self.width = several[0]

    def _cost_of_another(self, given: Given, before: int) -> Tensor:
        """Return the cost of another datum's z, [N]; NaN for data after the first ones."""
        unknown = torch.full((len(given),), torch.nan)
        if before >= unused.ASKED:
            return unknown
        with generators_kept():
            return unused.cost_of_another(given.pair[0], given.trace(1), given).cpu()


def _measure(
    given: Given, ks: Sequence[int], *, particles: int, runner: Runner, read: ReadAll
) -> dict[str, Any]:
    """Measure a batch; `read` records why a quantity other than the bounds is missing."""
    reading = read_passes(given, particles, runner, read)
    terms, log_w = reading.terms, reading.terms.log_w
    if log_w.isnan().any():
        read.left_out.setdefault(undefined.LOG_WEIGHTS, undefined.cause(terms))
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
    """Return the rate of each site; sites in only one of the programs are summed together."""
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
    batches: list[Given],
    diagnostics: Sequence[Diagnostic],
    seed: int | None,
) -> tuple[dict[str, Finding], dict[str, str]]:
    """Run the diagnostics, up to an interrupt; return their findings and the reasons of failures.

    The bounds are already measured, which may have taken long, so an error in a diagnostic is
    recorded and does not lose them.
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
            except Exception as error:  # noqa: BLE001 (any failure: the bounds are kept)
                refused[diagnostic.name] = reason(error)
                continue
            if found[diagnostic.name].partial:
                break
    except KeyboardInterrupt:
        pass
    return found, refused


def _whole(batches: list[Given]) -> list[Any]:
    """Concatenate batches; take the context that all data share from the first batch."""
    own = (True, *batches[0].per_datum)
    return [
        torch.cat(values) if per_datum else values[0]
        for values, per_datum in zip(zip(*batches, strict=True), own, strict=True)
    ]


def _names(diagnostics: Sequence[Diagnostic]) -> list[str]:
    several = isinstance(diagnostics, list | tuple)
    bad = [d for d in (diagnostics if several else [diagnostics]) if not _is_diagnostic(d)]
    if bad or not several:
        raise ValueError(
            "diagnostics must be a list of diagnostic objects, such as [pv.Latents()]; got "
            f"{(bad or [diagnostics])[0]!r}"
        )
    names = [diagnostic.name for diagnostic in diagnostics]
    if len(set(names)) < len(names):
        raise ValueError(
            f"diagnostics must have different names; got {names}: call evaluate once for each "
            "of those with the same name"
        )
    return names


def _is_diagnostic(value: Any) -> bool:
    return (
        callable(value)
        and isinstance(getattr(value, "name", None), str)
        and not isinstance(value, type)
    )


def _size(batches: Batches) -> int | None:
    return len(batches.rows[0]) if batches.rows else None


def _levels(particles: int) -> list[int]:
    powers = [10**i for i in range(1, 10) if 10**i < particles]
    return [*powers, particles] if particles > 1 else []


def _check_levels(ks: Sequence[int], particles: int) -> None:
    if particles < 1:
        raise ValueError(f"particles must be at least 1; got particles={particles}")
    bad = [k for k in ks if not 1 <= k <= particles]
    if bad:
        raise ValueError(
            f"IWAE-k needs 1 <= k <= K; got k in {bad} with K = {particles}: use more particles"
        )
