"""The result of annealed importance sampling: bounds on log p(x), their gap, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pyrovae.measure.findings import Finding, Quantity, counted, without_error_over_data
from pyrovae.weights.bounds import (
    Estimate,
    difference,
    effective_sample_size,
    iwae_estimate,
    log_mean_exp,
)

if TYPE_CHECKING:
    from pyrovae.measure.annealing.ais import AIS

__all__ = ["GAP", "LOWER", "SIMULATED_LOWER", "SIMULATED_UPPER", "AISFinding"]

LOWER: Final = "AIS, from below"
SIMULATED_LOWER: Final = "simulated data, from below"
SIMULATED_UPPER: Final = "simulated data, from above"
GAP: Final = "simulated data, gap"

LOOSE: Final = 0.5
"""The gap in nats above which the verdict asks for more temperatures. The threshold is ours."""

LOW_ACCEPTANCE: Final = 0.4
"""The mean acceptance rate below which the verdict says that chains hardly move.

The threshold is ours; the rate that the step sizes are adapted to is 0.65.
"""

CROSSED: Final = 4.0
"""The standard errors by which crossing bounds are no longer chance. The threshold is ours."""

FEW: Final = 0.25
"""The share of effective chains below which the bound is unreliable. The threshold is ours."""


@dataclass(frozen=True, repr=False)
class AISFinding(Finding):
    """The result of `AIS`: a lower bound on test data, both bounds on simulated data.

    All bounds are in nats per datum.

    Attributes:
        settings: the `AIS` that was run.
        log_w: the log-weights on the test data, [K, N].
        below: the log-weights of forward chains on simulated data, [K, N].
        above: the log-weights of backward chains on simulated data, [K, N].
        acceptance: the acceptance rates on the test data, [T, N].
        wanted: the number of data requested, more than N after an interrupt.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(4, latents=2, hidden=8, likelihood=pv.likelihoods.Normal)
        >>> found = pv.AIS(50, particles=8)(vae, torch.randn(3, 4))
        >>> found.lower.value.shape
        torch.Size([3])
    """

    settings: AIS
    log_w: Tensor
    below: Tensor
    above: Tensor
    acceptance: Tensor
    wanted: int

    @property
    def lower(self) -> Estimate:
        """The stochastic lower bound on log p(x) of the test data."""
        return iwae_estimate(self.log_w)

    @property
    def simulated_lower(self) -> Estimate:
        """The stochastic lower bound on log p(x) of the simulated data."""
        return iwae_estimate(self.below)

    @property
    def simulated_upper(self) -> Estimate:
        """The stochastic upper bound on log p(x) of the simulated data.

        The chains of a datum start from one posterior sample and are dependent, so the standard
        error over particles is unknown. The error over data includes theirs.
        """
        return _without_standard_error(-log_mean_exp(-self.above))

    @property
    def gap(self) -> Estimate:
        """The upper minus the lower bound on simulated data, which limits the error of AIS there.

        Its error over particles is unknown, as that of `simulated_upper`.
        """
        return _without_standard_error(self.simulated_upper.value - self.simulated_lower.value)

    @property
    def title(self) -> str:
        """The number of data and the settings."""
        return (
            f"{counted(self.log_w.shape[1], self.wanted)}, AIS with {self.settings.particles:,} "
            f"chains over {self.settings.temperatures:,} temperatures, nats per datum"
        )

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return self.log_w.shape[1] < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The three bounds and the gap, by label."""
        return {
            LOWER: self.lower,
            SIMULATED_LOWER: self.simulated_lower,
            SIMULATED_UPPER: self.simulated_upper,
            GAP: self.gap,
        }

    @property
    def verdict(self) -> Sequence[str]:
        """How far AIS may underestimate log p(x), and what to change."""
        one_datum = without_error_over_data(self.log_w.shape[1])
        return [*self._gap_verdict(), *one_datum, *self._chains_verdict()]

    def _gap_verdict(self) -> list[str]:
        """Describe the gap between the bounds on simulated data."""
        gap, error = self.gap.mean, self.gap.error_over_data
        if not math.isfinite(gap):
            return [
                "The bounds on data simulated from the model are not finite: they say nothing "
                "about the error of AIS."
            ]
        if gap < -CROSSED * error:
            return [
                f"The bounds on simulated data cross by {-gap:.2f} ± {error:.2f} nats, more than "
                "chance allows. The model does not sample from the density that it scores: trust "
                "neither bound, and correct the model."
            ]
        errors = "" if math.isnan(error) else f" ± {error:.2f}"
        resembling = "as far as they resemble simulated data"
        if gap <= 0:
            return [
                "On data simulated from the model, the lower and the upper bound agree (gap "
                f"{gap:.2f}{errors} nats). AIS shows no error there, nor on the test data "
                f"{resembling}."
            ]
        found = [
            f"On data simulated from the model, the upper bound is {gap:.2f}{errors} nats above "
            "the lower bound. AIS underestimates log p(x) by at most that much on average there, "
            f"and on the test data {resembling}."
        ]
        if gap > LOOSE:
            other = ", or start at the guide" if self.settings.start == "prior" else ""
            found.append(
                f"The gap is above {LOOSE:g} nats (a threshold of ours): use more "
                f"temperatures{other}."
            )
        return found

    def _chains_verdict(self) -> list[str]:
        """Warn about low acceptance rates and few effective chains."""
        found, rate = [], self.acceptance.mean().item()
        if rate < LOW_ACCEPTANCE:
            found.append(
                f"The chains accepted only {100 * rate:.0f}% of their transitions: use more "
                "leapfrog steps or more temperatures."
            )
        effective = effective_sample_size(self.log_w).mean().item()
        if effective < FEW * self.settings.particles:
            found.append(
                f"On the test data, {effective:.1f} of {self.settings.particles:,} chains are "
                "effective. The bound may be far too low and its error too small, and the test "
                "data may be unlike simulated data. Use more temperatures."
            )
        return found

    def beside(self, bound: Estimate, k: int, *, independent: bool) -> Sequence[str]:
        """Compare AIS with IWAE-k on the same data, in one sentence."""
        return [_comparison(_difference(self.lower, bound, independent=independent), k)]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The effective number of chains and the acceptance rate of each test datum, [N]."""
        return {
            "AIS, effective chains": effective_sample_size(self.log_w),
            "AIS, acceptance": self.acceptance.mean(0),
        }


def _without_standard_error(value: Tensor) -> Estimate:
    """Return an estimate whose standard error over particles is unknown."""
    return Estimate(value, torch.full_like(value, math.nan))


def _difference(annealed: Estimate, bound: Estimate, *, independent: bool) -> Estimate:
    """Return AIS minus a bound of the same data; the bound may cover more data."""
    n = len(annealed.value)
    first = Estimate(bound.value[:n], bound.standard_error[:n])
    return difference(annealed, first, independent=independent)


def _comparison(gain: Estimate, k: int) -> str:
    """Describe AIS minus IWAE-k, and whether it exceeds two standard errors."""
    mean, error, n = gain.mean, gain.error_over_particles, len(gain.value)
    data = f"the first {n:,} data" if n > 1 else "the first datum"
    if not math.isfinite(mean):
        bad = int((~gain.value.isfinite()).sum())
        return (
            f"On {data}, AIS and IWAE-{k} cannot be compared: {bad:,} data have no finite "
            "difference, because no chain or no particle fits them."
        )
    begins = f"On {data}, AIS minus IWAE-{k} is {mean:+.2f}"
    if math.isnan(error):
        return f"{begins} nats. One chain gives no standard error: use two or more."
    if mean > 2 * error:
        found = f"IWAE-{k} underestimates log p(x) there by at least that much."
    elif mean < -2 * error:
        found = (
            f"AIS is the looser bound there and says nothing about the error of IWAE-{k}. Use "
            "more temperatures, or start at the guide."
        )
    else:
        found = "they agree within errors."
    return f"{begins} ± {error:.2f} nats: {found}"
