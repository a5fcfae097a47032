r"""Inference gaps: the loss of the ELBO that is due to the family of q or to its network.

    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]
                           approximation gap       amortization gap

q* is the best posterior of the family for each datum, found by refinement. The ELBOs share their
random numbers, which cancel in the differences, and each gap has the standard error of its own
difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.progress import collect, concatenated
from pyrovae.measure.refinement.flow import PerDatumFlow
from pyrovae.measure.refinement.gaps_finding import (
    AMORTIZATION,
    APPROXIMATION,
    ELBO,
    FLOW,
    GAINED,
    HALF,
    HALF_OF_FLOW,
    LOG_EVIDENCE,
    OF_FLOW,
    REFINED,
    RISE,
    RISE_OF_FLOW,
    TOTAL,
    GapsFinding,
)
from pyrovae.measure.refinement.refine import Refined, common_weights, refine, unrefined
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.bounds import (
    Estimate,
    difference,
    effective_sample_size,
    iwae_estimate,
    mean_estimate,
)
from pyrovae.weights.given import Given
from pyrovae.weights.log_weights import log_weights
from pyrovae.weights.target import Resolved

__all__ = ["Gaps", "GapsFinding", "inference_gaps", "levels_and_gaps", "refined_guides"]

LEVELS: Final = (ELBO, REFINED, FLOW, LOG_EVIDENCE)
DIFFERENCES: Final[dict[str, tuple[str, str]]] = {
    AMORTIZATION: (REFINED, ELBO),
    APPROXIMATION: (LOG_EVIDENCE, REFINED),
    OF_FLOW: (LOG_EVIDENCE, FLOW),
    TOTAL: (LOG_EVIDENCE, ELBO),
    GAINED: (FLOW, REFINED),
    RISE: (REFINED, HALF),
    RISE_OF_FLOW: (FLOW, HALF_OF_FLOW),
}
"""The levels above and below each gap."""

Batch = tuple[Given, Estimate | None]


@dataclass(frozen=True)
class Gaps:
    r"""Estimate the amortization gap and the approximation gap of the ELBO.

    $$ \log p(x) - ELBO(q) = [\log p(x) - ELBO(q^*)] + [ELBO(q^*) - ELBO(q)] $$

    q* is the best posterior of the guide's family for each datum. The first term is the
    approximation gap, the second the amortization gap, in nats per datum. Use it as a diagnostic
    of `evaluate`, or by itself: `Gaps(limit=50)(vae, x)`. `inference_gaps` documents the
    estimators and their errors.

    Args:
        limit: the number of data to measure, taken from the start; None for all.
        particles: K, the particles for each datum and each level.
        steps: the steps of refinement within the guide's family, and again for the flow.
        lr: the initial step size of refinement, in units of the network's output.
        flow: a richer family, such as `PerDatumFlow()`, which doubles the cost; None for none.
        batch_size: the number of data refined together; an interrupt keeps finished batches.

    Raises:
        ValueError: for fewer than one datum, two particles or two steps.

    References:
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> finding = pv.Gaps(limit=5, steps=20)(vae, torch.bernoulli(torch.full((8, 64), 0.5)))
        >>> finding.title
        'inference gaps of 5 data, nats per datum'
    """

    limit: int | None = 100
    particles: int = 1000
    steps: int = 300
    lr: float = 0.05
    flow: PerDatumFlow | None = None
    batch_size: int = 50

    name: ClassVar[str] = "gaps"

    def __post_init__(self) -> None:
        """Check the settings."""
        least = {"limit": 1, "particles": 2, "steps": 2}
        met = {name: getattr(self, name) for name in least if getattr(self, name) is not None}
        low = {name: value for name, value in met.items() if value < least[name]}
        if low:
            raise ValueError(
                "expected at least one datum, two particles (for errors) and two steps (for a "
                f"convergence check); got {', '.join(f'{k}={v}' for k, v in low.items())}: raise "
                f"{' and '.join(low)}"
            )

    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> GapsFinding:
        """Estimate the gaps of a VAE, or of a pair (model, guide) that `refine` accepts.

        Raises:
            ValueError: as `inference_gaps`.
        """
        return inference_gaps(target, x, *context, settings=self)


def inference_gaps(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    settings: Gaps | None = None,
    log_evidence: Tensor | Estimate | None = None,
) -> GapsFinding:
    r"""Estimate the amortization gap and the approximation gap of each datum, in nats.

    For the network's posterior q, the posterior q* refined within its family, and the posterior
    q*_flow refined within a flow that contains this family,

    $$ \text{amortization} = ELBO(q^*) - ELBO(q),\qquad
       \text{approximation} = \log p(x) - ELBO(q^*),\qquad
       \text{of the flow} = \log p(x) - ELBO(q^*_{flow}). $$

    Unless given, log p(x) is the importance-weighted bound with K particles of the most refined
    guide. The guide is fixed in advance, because the best of several noisy bounds is biased
    upward. A bound that misses a mode of the posterior is too low whatever its errors; in that
    case, pass `log_evidence` from annealed importance sampling.

    The ELBOs share their random numbers, which cancel in the differences. Each gap has the
    standard error of its own difference. Refinement is also run with half the steps: what twice
    the steps gain shows whether it has converged, because what it leaves counts as approximation
    gap. The errors over particles condition on the guides that refinement found.

    Args:
        target: a VAE, or a pair (model, guide), that `refine` accepts.
        x: data [N, ...].
        *context: further arguments of the programs.
        settings: the number of data, particles and steps.
        log_evidence: log p(x) of the measured data or of more, [N], in nats; an `Estimate` adds
            standard errors.

    Returns:
        The levels and gaps of each datum, with a verdict.

    Raises:
        ValueError: as `refine`; for data outside the likelihood's domain; or if `log_evidence` has
            fewer values than data.

    References:
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.bernoulli(torch.full((5, 64), 0.5))
        >>> finding = pv.inference_gaps(vae, x, settings=pv.Gaps(steps=50))
        >>> finding.amortization_gap.mean > 0
        True
    """
    settings = settings or Gaps()
    resolved = Resolved.of(target)
    whole = resolved.given(x, *context)
    model = whole.bound(resolved.model)
    given = whole.first(settings.limit).unshared()
    known = None if log_evidence is None else _known(log_evidence, given.x)

    def work(batch: Batch) -> tuple[dict[str, Estimate], Tensor]:
        data, evidence = batch
        return levels_and_gaps(
            model,
            refined_guides(model, _start(target, whole, *data), settings, list(data)),
            *data,
            particles=settings.particles,
            log_evidence=evidence,
        )

    with resolved.evaluating(), torch.no_grad():
        batches = _batches(given, known, settings.batch_size)
        done = collect(work, batches, "refining each datum's posterior")
    estimates, sizes = zip(*done.pieces, strict=True)
    return GapsFinding(
        concatenated(estimates),
        torch.cat(sizes) if known is None else None,
        wanted=len(given),
        source=_source(settings, log_evidence),
    )


def _batches(given: Given, known: tuple[Tensor, Tensor] | None, size: int) -> list[Batch]:
    """Split the data into batches, together with the given log p(x)."""
    parts = list(given.cut(size))
    if known is None:
        return [(part, None) for part in parts]
    columns = zip(*(value.split(size) for value in known), strict=True)
    return [(part, Estimate(*pair)) for part, pair in zip(parts, columns, strict=True)]


def _start(target: Target, beside: Given, x: Tensor, *own: Tensor) -> Refined:
    """Return the unrefined guide of these data, as a program of x and the per-datum context."""
    start = unrefined(target, x, *beside.whole(own))
    return Refined(start.distribution, start.parameters, x, *own, site=start.site)


def refined_guides(
    model: Program, start: Refined, settings: Gaps, data: Sequence[Any]
) -> dict[str, Program]:
    """Return the guides whose ELBOs are the levels; the last is the most refined.

    Each refinement runs twice from the same start, with half the steps and with all of them.
    """
    half = max(1, settings.steps // 2)
    guides: dict[str, Program] = {ELBO: start}
    for name, steps in ((HALF, half), (REFINED, settings.steps)):
        guides[name] = refine((model, start), *data, steps=steps, lr=settings.lr)
    if settings.flow is not None:
        pair = (model, guides[REFINED])
        for name, steps in ((HALF_OF_FLOW, half), (FLOW, settings.steps)):
            guides[name] = refine(pair, *data, steps=steps, lr=settings.lr, family=settings.flow)
    return guides


def levels_and_gaps(
    model: Program,
    guides: dict[str, Program],
    x: Tensor,
    *context: ContextValue,
    particles: int,
    log_evidence: Estimate | None = None,
) -> tuple[dict[str, Estimate], Tensor]:
    """Return levels and gaps by label, and the effective sample size for log p(x), [N].

    The ELBOs share their random numbers; log p(x) uses independent draws. With shared draws their
    difference would be of second order where q is nearly exact, and too skewed for a normal
    interval.
    """
    log_w = common_weights(model, list(guides.values()), x, *context, particles=particles)
    rows = dict(zip(guides, log_w, strict=True))
    with torch.no_grad():
        last = list(guides.values())[-1]
        fresh = log_weights((model, last), x, *context, particles=particles)
    elbos = {name: mean_estimate(rows[name]) for name in rows}
    levels = elbos | {LOG_EVIDENCE: log_evidence or iwae_estimate(fresh)}
    gaps = {
        name: mean_estimate(rows[above] - rows[below])
        if above in rows
        else difference(levels[above], levels[below], independent=True)
        for name, (above, below) in DIFFERENCES.items()
        if above in levels and below in levels
    }
    shown = {name: levels[name] for name in LEVELS if name in levels}
    return shown | gaps, effective_sample_size(fresh)


def _source(settings: Gaps, log_evidence: Tensor | Estimate | None) -> str:
    """Return a noun phrase for where log p(x) comes from."""
    if log_evidence is not None:
        return "the given log_evidence"
    guide = "posteriors refined in their own family" if settings.flow is None else "refined flow"
    return f"the importance-weighted bound at {settings.particles:,} particles of the {guide}"


def _known(log_evidence: Tensor | Estimate, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the given log p(x) of the data x, and its standard errors."""
    if isinstance(log_evidence, Tensor):
        log_evidence = Estimate(log_evidence, torch.zeros_like(log_evidence))
    met = tuple(log_evidence.value.shape)
    if len(met) != 1 or met[0] < len(x):
        raise ValueError(
            f"expected log_evidence of shape [{len(x)}] or longer, one value per datum; got shape "
            f"{met}: pass log p(x) of the first {len(x)} data, or measure fewer"
        )
    value, error = log_evidence.value[: len(x)], log_evidence.standard_error[: len(x)]
    return value.to(x.device), error.to(x.device)
