"""The result of the inference-gap diagnostic, with a verdict on what limits the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from pyrovae.measure.findings import Finding, without_error_over_data
from pyrovae.weights.bounds import Estimate

__all__ = ["GapsFinding"]

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

UNFINISHED: Final = 0.1
"""The share of an approximation gap that twice the steps may gain before refinement is unfinished.

The threshold is ours.
"""

NEGLIGIBLE: Final = 0.01
"""The nats below which a gap is negligible, as refinement leaves about that much.

The threshold is ours.
"""

FEW: Final = 20
"""The effective sample size below which log p(x) is unreliable. The threshold is ours."""


@dataclass(frozen=True, repr=False)
class GapsFinding(Finding):
    """The result of `Gaps`: the levels from the ELBO to log p(x) and the gaps between them.

    All levels and gaps are in nats per datum.

    Attributes:
        estimates: the levels and gaps by label, as in the table.
        effective_sample_size: the effective sample size of the particles that estimate log p(x),
            [N]; None if log p(x) was given.
        wanted: the number of data requested, more than were measured after an interrupt.
        source: where log p(x) comes from, as a noun phrase.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.Gaps(limit=5, steps=20)(vae, torch.bernoulli(torch.full((8, 64), 0.5)))
        >>> found.amortization_gap.value.shape
        torch.Size([5])
    """

    estimates: dict[str, Estimate]
    effective_sample_size: Tensor | None
    wanted: int
    source: str

    @property
    def elbo(self) -> Estimate:
        """The ELBO of the guide."""
        return self.estimates[ELBO]

    @property
    def refined_elbo(self) -> Estimate:
        """The ELBO after refinement within the guide's own family."""
        return self.estimates[REFINED]

    @property
    def flow_elbo(self) -> Estimate | None:
        """The ELBO after refinement of a flow per datum; None without a flow."""
        return self.estimates.get(FLOW)

    @property
    def log_evidence(self) -> Estimate:
        """The estimate of log p(x), a lower bound unless it was given."""
        return self.estimates[LOG_EVIDENCE]

    @property
    def amortization_gap(self) -> Estimate:
        """The ELBO after refinement within the guide's own family, minus the ELBO."""
        return self.estimates[AMORTIZATION]

    @property
    def approximation_gap(self) -> Estimate:
        """The estimate of log p(x), minus the ELBO after refinement within the own family."""
        return self.estimates[APPROXIMATION]

    @property
    def flow_approximation_gap(self) -> Estimate | None:
        """The estimate of log p(x), minus the ELBO of the flow; None without a flow."""
        return self.estimates.get(OF_FLOW)

    @property
    def total_gap(self) -> Estimate:
        """The estimate of log p(x), minus the ELBO: the sum of both gaps."""
        return self.estimates[TOTAL]

    @property
    def title(self) -> str:
        """The number of data, whether an interrupt left some out, and the unit."""
        return f"{self.subject}, nats per datum"

    @property
    def subject(self) -> str:
        """The number of data, and whether an interrupt left some out."""
        met = len(self.elbo.value)
        if met < self.wanted:
            return f"inference gaps, partial: {met:,} of {self.wanted:,} data"
        return f"inference gaps of {met:,} data"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return len(self.elbo.value) < self.wanted

    @property
    def quantities(self) -> dict[str, Any]:
        """The levels and gaps, by label."""
        return dict(self.estimates)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The effective sample size of the estimate of log p(x), unless that was given."""
        size = self.effective_sample_size
        return {} if size is None else {"effective sample size": size}

    @property
    def verdict(self) -> Sequence[str]:
        """What limits the bound, and how reliable that is."""
        one_datum = without_error_over_data(len(self.elbo.value))
        return [self._limit(), *self._gain(), *self._unfinished(), *self._evidence(), *one_datum]

    def _limit(self) -> str:
        """Describe which gap limits the bound."""
        amortization, approximation = self.amortization_gap, self.approximation_gap
        undefined = int((~(amortization.value + approximation.value).isfinite()).sum())
        if undefined:
            return (
                f"The gaps of {undefined:,} data are missing or infinite, because log p(x) or the "
                "ELBO is not finite there: what limits the bound is not known."
            )
        errors = _error(amortization) + _error(approximation)
        if math.isnan(errors):
            return (
                "A gap of one datum has no error, because log_evidence has none: what limits the "
                "bound is not known. Measure several."
            )
        if not (_matters(amortization) or _matters(approximation)):
            return (
                f"Neither gap is above two errors and {NEGLIGIBLE:g} nats (a threshold of ours): "
                "q is close to the posterior. To raise the bound, change the prior or the "
                "likelihood."
            )
        # The standard error of a difference is at most the sum of the two.
        if abs(amortization.mean - approximation.mean) <= 2 * errors:
            return (
                "The two gaps are equal within errors: neither the network nor the family of q "
                "alone limits the bound."
            )
        if amortization.mean > approximation.mean:
            return (
                "Amortization limits the bound: the amortization gap is "
                f"{_in_nats(amortization)}, the approximation gap {_in_nats(approximation)}. A "
                "larger encoder, longer training or `refine` would gain more than a richer family."
            )
        return (
            "The family of q limits the bound: the approximation gap is "
            f"{_in_nats(approximation)}, the amortization gap {_in_nats(amortization)}. A richer "
            "family would gain more than a larger encoder."
        )

    def _gain(self) -> list[str]:
        """Describe what the flow gains, if that is significant."""
        gained = self.estimates.get(GAINED)
        if gained is None or not _matters(gained):
            return []
        return [f"A flow per datum gains {_in_nats(gained)} over the guide's own family."]

    def _unfinished(self) -> list[str]:
        """Warn about refinements that have not converged."""
        sentences = []
        for rise, gap in ((RISE, APPROXIMATION), (RISE_OF_FLOW, OF_FLOW)):
            gained = self.estimates.get(rise)
            if gained is not None and _matters(gained):
                left = self.estimates[gap].mean
                if math.isfinite(left) and gained.mean > UNFINISHED * left:
                    sentences.append(
                        "Refinement has not converged: twice the steps gained "
                        f"{_in_nats(gained)}. The {gap} is smaller than reported: use more steps."
                    )
        return sentences

    def _evidence(self) -> list[str]:
        """Describe where log p(x) comes from, and warn about few effective particles."""
        sentences = [f"log p(x) is {self.source}."]
        if self.effective_sample_size is not None:
            sentences[0] = (
                f"log p(x) is {self.source}. It is a lower bound, so the approximation gaps are "
                "lower bounds too."
            )
            few = int((self.effective_sample_size < FEW).sum())
            if few:
                sentences.append(
                    f"For {few:,} data, log p(x) rests on fewer than {FEW} effective particles (a "
                    "threshold of ours): their gaps and errors are larger than reported. Use more "
                    "particles, or pass log_evidence from annealed importance sampling."
                )
        return sentences


def _error(gap: Estimate) -> float:
    """Return the larger of the known errors; NaN if neither is known."""
    errors = gap.error_over_particles, gap.error_over_data
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _matters(gap: Estimate) -> bool:
    """Return whether a gap is above two errors and `NEGLIGIBLE`."""
    return gap.mean > max(NEGLIGIBLE, 2 * _error(gap))


def _in_nats(gap: Estimate) -> str:
    """Return the mean of a gap with its error, as text."""
    return f"{gap.mean:.3f} ± {_error(gap):.3f} nats"
