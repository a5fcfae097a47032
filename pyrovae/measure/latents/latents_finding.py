"""The result of the latent-space diagnostic, with a verdict on posterior collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from pyrovae.measure.findings import Finding, Number, Quantity, counted, or_zero
from pyrovae.measure.latents.active_units import ACTIVE, Activity
from pyrovae.measure.latents.sites import LatentSite
from pyrovae.measure.unused_latents import MUCH, NEGLIGIBLE

__all__ = ["LatentsFinding"]

UNSETTLED: Final = 0.5
"""The width in nats of the range of I(x; z) above which the verdict states it.

The threshold is ours.
"""

WEIGH_LESS: Final = "Increase the KL weight slowly, use free bits, or weaken the decoder."
RETRAIN: Final = "Train the guide longer or by itself, or give it a wider network."

RATE: Final = "rate"
INFORMATION: Final = "I(x; z)"
AT_MOST: Final = "I(x; z), at most"
MARGINAL: Final = "marginal KL"
AT_LEAST: Final = "marginal KL, at least"
CORRELATION: Final = "total correlation"
DIMENSION_WISE: Final = "dimension-wise KL"
SWAPPED: Final = "cost of another's z"
SPREAD: Final = "spread over the prior"
HOLES: Final = "prior mass in holes"
OUTSIDE: Final = "aggregate mass outside"


@dataclass(frozen=True, repr=False)
class LatentsFinding(Finding):
    """The result of `Latents`: the parts of the rate, holes, and a verdict on collapse.

    All quantities except the active units and the two masses are in nats per datum.

    Attributes:
        data: N, the number of data in the aggregate posterior.
        wanted: the number of data requested, more than N after an interrupt.
        draws: the number of draws of the aggregate posterior.
        activity: the activity of each continuous dimension.
        numbers: the lines of the table by label, except the active units.
        sites: the latent sites of the guide.
        hole: the ratio of densities that defines a hole.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.Latents(draws=100)(vae, torch.rand(20, 64).round())
        >>> found.collapsed  # before training
        True
    """

    data: int
    wanted: int
    draws: int
    activity: Activity
    numbers: dict[str, Number]
    sites: list[LatentSite]
    hole: float

    @property
    def title(self) -> str:
        """The number of data and draws."""
        data = counted(self.data, self.wanted)
        return f"latent space: {data}, {self.draws:,} draws, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return self.data < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The active units, the parts of the rate, and the masses in holes."""
        active = {"active units": Number(self.activity.count)}
        return {**(active if self.activity.names else {}), **self.numbers}

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The squared deviations of the posterior means, see `Activity.squares`, [N, D]."""
        return {"squared deviations of the posterior means": self.activity.squares}

    @property
    def collapsed(self) -> bool:
        """Whether the decoder ignores z or the guide ignores x."""
        return self.decoder_ignores_z or self.guide_ignores_x

    @property
    def decoder_ignores_z(self) -> bool:
        r"""Whether log p(x | z) is nearly constant over the prior.

        If it varies little, the rate of the exact posterior is half the variance of log p(x | z)
        over the prior. For normal differences of mean absolute size d that is $\pi d^2 / 8$. It is
        compared with 0.1 nats, a threshold of ours.
        """
        return self._attainable_rate < NEGLIGIBLE and self.numbers[SWAPPED].mean < MUCH

    @property
    def _attainable_rate(self) -> float:
        """The rate of the exact posterior, to first order, in nats."""
        return math.pi / 8 * self.numbers[SPREAD].mean ** 2

    @property
    def guide_ignores_x(self) -> bool:
        """Whether the posteriors of different data are nearly equal: I(x; z) is below 0.1 nats.

        The threshold is ours.
        """
        return self.numbers[INFORMATION].mean < NEGLIGIBLE

    @property
    def verdict(self) -> list[str]:
        """Whether the latents have collapsed and why, what is uncertain, and the holes."""
        return [*self._health(), *self._caveats(), self._holes()]

    @property
    def mismatched(self) -> bool:
        """Whether the cost of another's z is below I(x; z) by more than two errors.

        Under the exact posterior the cost is at least I(x; z).
        """
        cost = self.numbers[SWAPPED]
        return cost.mean + 2 * or_zero(cost.error_over_data) < self.numbers[INFORMATION].mean

    def _health(self) -> list[str]:
        """Describe whether the latents are used, and which dimensions are not."""
        if any(math.isnan(self.numbers[name].mean) for name in (SWAPPED, SPREAD)):
            nats = self.numbers[INFORMATION].mean
            told = "Collapsed: the guide ignores x" if self.guide_ignores_x else "Not known"
            return [
                f"{told}. The guide encodes {nats:.2f} nats about x in z. Whether the decoder "
                "uses them is missing, since some data are impossible at the draws of z."
            ]
        if self.collapsed:
            return self._collapse()
        nats, cost = self.numbers[INFORMATION].mean, self.numbers[SWAPPED].mean
        if self.mismatched:
            return [
                f"Mismatched: the guide encodes {nats:.2f} nats about x in z, but log p(x | z) "
                f"falls by only {cost:.2f} nats when z is another datum's. Under the exact "
                f"posterior it would fall by more. {RETRAIN}"
            ]
        said = (
            f"z carries {nats:.2f} nats of information about x, and log p(x | z) falls by "
            f"{cost:.2f} nats when z is another datum's."
        )
        active, names = self.activity.active, self.activity.names
        count, total = self.activity.count, len(names)
        if count == total:
            return [f"Healthy: {said}"] if nats >= self._little else self._weak(said)
        unused = [name for name, used in zip(names, active, strict=True) if not used]
        state = "Partially collapsed" if count else "Nearly collapsed"
        if 2 * count > total or (not count and nats > MUCH):
            state = "Healthy" if nats >= self._little else "Weak"
        return [
            f"{state}: {count} of {total} dimensions are active. {said}",
            f"Unused dimensions, with a variance of the posterior mean below {ACTIVE}: "
            f"{_listed(unused)}.",
        ]

    @property
    def _little(self) -> float:
        """The nats below which z is called weak, min(1, log(N) / 2). The threshold is ours."""
        return min(MUCH, math.log(self.data) / 2)

    def _weak(self, said: str) -> list[str]:
        """Describe a weak latent, and what to change."""
        limited = self._attainable_rate < MUCH
        least = "1 nat" if self._little == 1 else f"{self._little:.2g} nats"
        return [
            f"Weak: {said} Below {least} (a threshold of ours), z hardly distinguishes one datum "
            "from another.",
            WEIGH_LESS if limited else RETRAIN,
        ]

    def _collapse(self) -> list[str]:
        """Describe a collapse by its cause: the decoder, both, or the guide."""
        nats, spread = self.numbers[INFORMATION].mean, self.numbers[SPREAD].mean
        differs = (
            f"log p(x | z) differs by {spread:.2g} nats on average between two draws of the prior"
        )
        if self.decoder_ignores_z:
            unused = (
                f"The guide encodes {nats:.2f} nats about x in z, which the decoder does not use."
            )
            return [
                f"Collapsed: the decoder ignores z. {differs}, so z can carry almost no "
                "information about x.",
                *([] if self.guide_ignores_x else [unused]),
                WEIGH_LESS,
            ]
        if self._attainable_rate < MUCH:
            return [
                f"Collapsed: z carries {nats:.2g} nats of information about x, and the decoder "
                f"hardly uses z: {differs}.",
                WEIGH_LESS,
            ]
        return [
            "Collapsed: the guide ignores x, although the decoder uses z. The posteriors of "
            f"different data are nearly equal (I(x; z) = {nats:.2g} nats), but {differs}.",
            RETRAIN,
        ]

    def _caveats(self) -> list[str]:
        """Describe the uncertainty about the population, and what was left out."""
        caveats = []
        low, ceiling = self.numbers[INFORMATION].mean, math.log(self.data)
        high = self.numbers[AT_MOST].mean if AT_MOST in self.numbers else math.nan
        if math.isnan(high):
            caveats.append(
                f"Missing: {AT_MOST} and {AT_LEAST}. Some draws are impossible under all data but "
                "their own, as codes are that one datum alone has, so I(x; z) of the population "
                f"has no upper value here. That of these data is at most log N = {ceiling:.2f}."
            )
        if high - low > UNSETTLED:
            caveats.append(
                f"{self.data:,} data are too few to determine I(x; z) of the population: it lies "
                f"between {low:.2f} and {high:.2f} nats. I(x; z) of these data is at most log N "
                f"= {ceiling:.2f}. The other parts of the rate and the holes also describe these "
                "data only; measure more data to narrow the range."
            )
        discrete = [site.name for site in self.sites if site.discrete]
        if discrete:
            caveats.append(
                f"Discrete sites: {_listed(discrete)}. They count toward the information and the "
                "holes, but not toward the active units."
            )
        apart = [site.name for site in self.sites if not site.separable]
        if apart:
            caveats.append(
                f"No total correlation: {_listed(apart)} has no closed-form density for each "
                "dimension."
            )
        return caveats

    def _holes(self) -> str:
        """Describe the mismatch between the aggregate posterior and the prior."""
        missed, outside = self.numbers[HOLES].mean, self.numbers[OUTSIDE].mean
        return (
            f"{100 * missed:.1f}% of the prior's mass lies in holes, where q(z) < {self.hole:g} "
            "p(z): the decoder has hardly been trained there. "
            f"{100 * outside:.1f}% of the aggregate posterior's mass lies outside the prior, "
            f"where p(z) < {self.hole:g} q(z): the prior hardly ever samples there."
        )


def _listed(names: list[str], most: int = 8) -> str:
    """Join the first names, and count the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
