r"""What a variational bound loses on log p(x), and to what: the family of q, or its network.

    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]
                           approximation gap       amortization gap

q* is the best posterior of the family for the datum, found by refinement. The ELBOs have their
random numbers in common, which their differences are rid of, and every gap has the standard error
of its own difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.findings import Finding, collect, join, without_error_over_data
from pyrovae.measure.refinement.flow import PerDatumFlow
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

ELBO: Final = "ELBO"
REFINED: Final = "ELBO, refined"
FLOW: Final = "ELBO, refined flow"
LOG_EVIDENCE: Final = "log p(x)"
AMORTIZATION: Final = "amortization gap"
APPROXIMATION: Final = "approximation gap"
OF_FLOW: Final = "approximation gap of the flow"
TOTAL: Final = "both gaps"
GAINED: Final = "gained by the flow"
RISE: Final = "gained by twice the steps"
RISE_OF_FLOW: Final = "by twice the steps, flow"
HALF, HALF_OF_FLOW = "half the steps", "half the steps of the flow"

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
"""The gaps by the levels above and below them."""

UNFINISHED: Final = 0.1
"""The share of an approximation gap that twice the steps may gain before it is unfinished."""

NEGLIGIBLE: Final = 0.01
"""The nats below which a gap limits nothing, however sure it is: refinement leaves as much."""

FEW: Final = 20
"""The effective sample size below which a datum's log p(x) rests on few particles."""

Batch = tuple[Given, Estimate | None]


@dataclass(frozen=True)
class Gaps:
    """Split what the ELBO loses into the amortization gap and the approximation gap.

    As a diagnostic of `evaluate`, or by itself: `Gaps(limit=50)(vae, x)`. What it measures, and
    the errors, are told at `inference_gaps`.

    Args:
        limit: how many of the data to measure, the first ones; None for all.
        particles: K, for each datum and each level.
        steps: of refinement within the guide's family, and as many again for the flow.
        lr: the size of refinement's first step, in the units of the network's output.
        flow: a richer family, such as `PerDatumFlow()`, which doubles the cost; None leaves it
            out.
        batch_size: the data that are refined together; an interrupt keeps finished batches.

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
        """Check what can be checked without data."""
        least = {"limit": 1, "particles": 2, "steps": 2}
        met = {name: getattr(self, name) for name in least if getattr(self, name) is not None}
        low = {name: value for name, value in met.items() if value < least[name]}
        if low:
            raise ValueError(
                "gaps take at least one datum, two particles for the errors, and two steps of "
                f"refinement, half and half; got {', '.join(f'{k}={v}' for k, v in low.items())}"
            )

    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> GapsFinding:
        """Measure the gaps of a VAE, or of a pair (model, guide) that `refine` takes."""
        return inference_gaps(target, x, *context, settings=self)


@dataclass(frozen=True, repr=False)
class GapsFinding(Finding):
    """The levels from the ELBO up to log p(x), the gaps between them, and what limits the bound.

    Attributes:
        estimates: levels and gaps by name.
        effective_sample_size: of the particles behind log p(x), [N]; None where it was given.
        wanted: how many data there were to measure.
        source: where log p(x) comes from.
    """

    estimates: dict[str, Estimate]
    effective_sample_size: Tensor | None
    wanted: int
    source: str

    @property
    def title(self) -> str:
        """How many data, and whether they are all that were wanted."""
        met = len(self.estimates[ELBO].value)
        part = f", partial: {met:,} of {self.wanted:,} data" if met < self.wanted else ""
        return f"inference gaps{part or f' of {met:,} data'}, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return len(self.estimates[ELBO].value) < self.wanted

    @property
    def quantities(self) -> dict[str, Any]:
        """Levels and gaps."""
        return dict(self.estimates)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The effective sample size behind log p(x), where it was estimated here."""
        size = self.effective_sample_size
        return {} if size is None else {"effective sample size": size}

    @property
    def verdict(self) -> Sequence[str]:
        """What limits the bound, and how far to trust that."""
        alone = without_error_over_data(len(self.estimates[ELBO].value))
        return [self._limit(), *self._gain(), *self._unfinished(), *self._evidence(), *alone]

    def _limit(self) -> str:
        amortization, approximation = self.estimates[AMORTIZATION], self.estimates[APPROXIMATION]
        errors = _error(amortization) + _error(approximation)
        if not (_matters(amortization) or _matters(approximation)):
            return (
                "Neither gap is told from zero: within errors q is the posterior, and to raise "
                "the bound takes another prior or likelihood."
            )
        # A difference's standard error is at most the sum of the two.
        if abs(amortization.mean - approximation.mean) <= 2 * errors:
            return "The network and the family cost alike, within errors: neither limits alone."
        if amortization.mean > approximation.mean:
            return (
                f"Amortization limits the bound: it costs {_in_nats(amortization)}, the family "
                f"{_in_nats(approximation)}. A larger encoder, longer training or `refine` "
                "would gain more than a richer family."
            )
        return (
            f"The family of q limits the bound: it costs {_in_nats(approximation)}, "
            f"amortization {_in_nats(amortization)}. A richer family would gain more than a "
            "larger encoder."
        )

    def _gain(self) -> list[str]:
        gained = self.estimates.get(GAINED)
        if gained is None or not _matters(gained):
            return []
        return [f"A flow for each datum gains {_in_nats(gained)} over the guide's own family."]

    def _unfinished(self) -> list[str]:
        said = []
        for rise, gap in ((RISE, APPROXIMATION), (RISE_OF_FLOW, OF_FLOW)):
            gained = self.estimates.get(rise)
            if gained is not None and _matters(gained):
                if gained.mean > UNFINISHED * self.estimates[gap].mean:
                    said.append(
                        "Refinement has not come to its end: twice the steps gained "
                        f"{_in_nats(gained)}. The {gap} is smaller than this; take more steps."
                    )
        return said

    def _evidence(self) -> list[str]:
        said = [f"log p(x) is {self.source}."]
        if self.effective_sample_size is not None:
            said[0] = f"log p(x) is {self.source}, a lower bound: so are the approximation gaps."
            few = int((self.effective_sample_size < FEW).sum())
            if few:
                said.append(
                    f"For {few:,} data it rests on fewer than {FEW} effective particles: their "
                    "gaps are larger than these, and the errors too; draw more particles, or "
                    "give log_evidence from annealed importance sampling."
                )
        return said


def inference_gaps(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    settings: Gaps | None = None,
    log_evidence: Tensor | Estimate | None = None,
) -> GapsFinding:
    r"""Measure the amortization gap and the approximation gap of each datum.

    For q as the network has it, q* refined within its family and q*_flow refined in a flow that
    holds this family,

    $$ \text{amortization} = ELBO(q^*) - ELBO(q),\qquad
       \text{approximation} = \log p(x) - ELBO(q^*),\qquad
       \text{of the flow} = \log p(x) - ELBO(q^*_{flow}). $$

    Unless it is given, log p(x) is the importance-weighted bound at all K particles of the most
    refined guide. That guide is fixed beforehand: the best of several noisy bounds would be
    biased upwards. A bound that misses a mode of the posterior stays too low, whatever its
    errors; where this may be, give `log_evidence` from annealed importance sampling.

    Refinement is made with half of the steps too: what twice the steps gain tells whether it has
    come to its end, since what it leaves undone counts as approximation gap. The errors over
    particles are those of measuring the guides that refinement found.

    Args:
        target: a VAE, or a pair (model, guide), that `refine` takes.
        x: data [N, ...].
        *context: what the programs take beside x.
        settings: how many data, particles and steps.
        log_evidence: log p(x) of the first so many data, or more: [N], with errors if there are.

    Raises:
        ValueError: as `refine`, for data outside the likelihood's domain, or fewer values of
            `log_evidence` than data.

    References:
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.bernoulli(torch.full((5, 64), 0.5))
        >>> finding = pv.inference_gaps(vae, x, settings=pv.Gaps(steps=50))
        >>> finding.estimates["amortization gap"].mean > 0
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
        {name: join([found[name] for found in estimates]) for name in estimates[0]},
        torch.cat(sizes) if known is None else None,
        wanted=len(given),
        source=_source(settings, log_evidence),
    )


def _batches(given: Given, known: tuple[Tensor, Tensor] | None, size: int) -> list[Batch]:
    """Cut the data, and what is known of log p(x) beside them."""
    parts = list(given.cut(size))
    if known is None:
        return [(part, None) for part in parts]
    columns = zip(*(value.split(size) for value in known), strict=True)
    return [(part, Estimate(*pair)) for part, pair in zip(parts, columns, strict=True)]


def _start(target: Target, beside: Given, x: Tensor, *own: Tensor) -> Refined:
    """Return the guide of these data as the network has it, a program of what is their own."""
    start = unrefined(target, x, *beside.whole(own))
    return Refined(start.distribution, start.parameters, x, *own, site=start.site)


def refined_guides(
    model: Program, start: Refined, settings: Gaps, data: Sequence[Any]
) -> dict[str, Program]:
    """Return the guides whose ELBOs are the levels; the last is the most refined.

    Each refinement is made twice from the same start: the second time with all the steps.
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
    """Return levels and gaps by name, and the effective sample size behind log p(x), [N].

    The ELBOs share their random numbers, and log p(x) has draws of its own: a difference of the
    two from the same draws is of second order where q is nearly exact, too skewed for a normal
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
    if log_evidence is not None:
        return "as it was given"
    guide = "posteriors refined in their own family" if settings.flow is None else "refined flow"
    return f"the importance-weighted bound at {settings.particles:,} particles of the {guide}"


def _known(log_evidence: Tensor | Estimate, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values given for the data x, and their standard errors."""
    if isinstance(log_evidence, Tensor):
        log_evidence = Estimate(log_evidence, torch.zeros_like(log_evidence))
    met = tuple(log_evidence.value.shape)
    if len(met) != 1 or met[0] < len(x):
        raise ValueError(
            f"log_evidence has a value for each of the {len(x)} data, [{len(x)}] or more; got "
            f"shape {met}: give log p(x) of the first {len(x)} data, or measure fewer"
        )
    value, error = log_evidence.value[: len(x)], log_evidence.standard_error[: len(x)]
    return value.to(x.device), error.to(x.device)


def _error(gap: Estimate) -> float:
    """Return the larger of the errors that are known."""
    return max(e for e in (gap.error_over_particles, gap.error_over_data) if not math.isnan(e))


def _matters(gap: Estimate) -> bool:
    return gap.mean > max(NEGLIGIBLE, 2 * _error(gap))


def _in_nats(gap: Estimate) -> str:
    return f"{gap.mean:.3f} ± {_error(gap):.3f} nats"
