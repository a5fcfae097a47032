r"""What the latent space holds: information about x, collapse and its cause, and holes.

The rate is taken apart by the aggregate posterior of the data given, q(z) = 1/N sum_n q(z | x_n):

    KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))
    KL(q(z) || p(z)) = KL(q(z) || prod_j q(z_j)) + KL(prod_j q(z_j) || p(z))

on average over the data. For these data the parts are exact but for the noise of draws, and
I(x; z) is at most log N. Of the population that the data come from they are biased: I(x; z) is too
low and KL(q(z) || p(z)) too high. With each draw's own datum left out of q(z) both err the other
way, so the two values enclose the population's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.findings import Finding, Number, Quantity, counted
from pyrovae.measure.latents.active_units import (
    ACTIVE,
    PROBED,
    Activity,
    active_units,
    check_several,
)
from pyrovae.measure.latents.aggregate_posterior import Mixture, Posterior, Sum, over_data
from pyrovae.measure.latents.draws import Codes, draw_codes, two_stage
from pyrovae.measure.latents.sites import LatentSite, Values, latent_sites
from pyrovae.measure.unused_latents import MUCH, NEGLIGIBLE
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

UNSETTLED: Final = 0.5
"""Nats between the bounds on the population's information above which a finding says so."""

WEIGH_LESS: Final = "Raise the KL weight slowly, keep free bits, or weaken the decoder."
RETRAIN: Final = "Train the guide for longer or by itself, or give it a wider network."
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


@dataclass(frozen=True)
class Latents:
    r"""Measure what the latents hold: active units, information, collapse, and holes.

    Every latent site is counted, discrete ones by draws; what is said of single dimensions is of
    sites that depend on no other. The table has

        active units             dimensions with $Var_x(E_q[z_j | x]) > 0.01$: a mark for priors of
                                 variance 1, which another variance does not scale
        rate                     KL(q(z|x) || p(z))
        I(x; z)                  of these data: their index and the code, at most log N
        I(x; z), at most         each draw's own datum left out: above the population's
        marginal KL              of these data: KL(q(z) || p(z)), the rate less I(x; z)
        marginal KL, at least    each draw's own datum left out: below the population's
        total correlation        KL(q(z) || prod_j q(z_j))
        dimension-wise KL        sum_j KL(q(z_j) || p(z_j)), the rest of the marginal KL
        cost of another's z      what log p(x | z) loses by the code of another datum
        spread over the prior    how far log p(x | z) at two draws of p(z) is apart on average: 0
                                 for a decoder that ignores z
        prior mass in holes      P_p[q(z) < hole p(z)]
        aggregate mass outside   P_q[p(z) < hole q(z)]

    The two lines by dimension are there where every latent has a density for each, and the
    second where the prior factorizes too. In $N \to \infty$ the two values of I(x; z) meet: both
    are off by half the mean of $Var_x(q(z|x)) / q(z)^2$ over N, one up and one down. Errors over
    data are of first order: where q(z) is the prior itself, what is left of the marginal KL and
    of the total correlation is of the next, and the two values tell more than their errors.

    Args:
        limit: how many of the data to measure, the first ones; None for all.
        draws: of the aggregate posterior: two or more for each of so many data as that allows,
            chosen at random. Each is scored under all the data.
        hole: the ratio of densities below which one misses the other.

    Raises:
        ValueError: for a setting out of range; when called, for fewer than two data, for a prior
            that differs from datum to datum, and naming the site, for one that is a Delta or
            masked.

    References:
        Hoffman, Johnson, 2016. ELBO Surgery.
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.
        Poole, Ozair, van den Oord, Alemi, Tucker, 2019. On Variational Bounds of Mutual
            Information, sections 2.2 and 2.3.
        Rosca, Lakshminarayanan, Mohamed, 2018. Distribution Matching in Variational Inference.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> finding = pv.Latents(draws=100)(vae, torch.rand(20, 64).round())
        >>> print(finding.verdict[0])  # nothing is trained yet
        Collapsed: ...
    """

    name: ClassVar[str] = "latents"

    limit: int | None = None
    draws: int = 2000
    hole: float = 0.05

    def __post_init__(self) -> None:  # noqa: D105
        if self.draws < 4 or (self.limit is not None and self.limit < 2):
            raise ValueError(
                "latents of two data or more are compared by two draws of each; got "
                f"limit={self.limit}, draws={self.draws}"
            )
        if not 0 < self.hole < 1:
            raise ValueError(f"a hole is a ratio of densities below 1; got hole={self.hole}")

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> LatentsFinding:
        """Measure a VAE, or a pair (model, guide), on data [N, ...]."""
        resolved = Resolved.of(target)
        whole = resolved.given(x, *context)
        model, guide = (whole.bound(program) for program in resolved.pair)
        given = whole.first(self.limit).unshared((model, guide))
        check_several(given)
        with resolved.evaluating():
            return self._measure(model, guide, given)

    def _measure(self, model: Program, guide: Program, given: Given) -> LatentsFinding:
        probe = given.first(PROBED)
        probe.trace(1)  # Checks that the programs fit together.
        posterior = Posterior(guide, latent_sites(guide, *probe))
        # The first of shuffled data are a random choice.
        shuffled = given.rows(torch.randperm(len(given), device=given.x.device))
        sources = min(len(given), self.draws // 2)
        codes = draw_codes(model, posterior, self.draws // sources, shuffled.first(sources))
        mixture, of_prior = _aggregate(posterior, codes, shuffled)
        codes = codes.first(mixture.size)
        numbers = _surgery(codes, mixture)
        if posterior.complete:
            factorized = all(site.separable for site in latent_sites(model, *probe))
            numbers |= _by_dimension(codes, mixture, factorized=factorized)
        numbers |= {
            SWAPPED: codes.cost_of_swapping(),
            SPREAD: codes.spread(mixture.size),
        } | self._masses(codes, mixture, of_prior)
        return LatentsFinding(
            data=mixture.size,
            wanted=len(given),
            draws=mixture.own[..., 0].numel(),
            activity=active_units((model, guide), *given),
            numbers=numbers,
            sites=posterior.sites,
            hole=self.hole,
        )

    def _masses(self, codes: Codes, mixture: Mixture, of_prior: Tensor) -> dict[str, Number]:
        """Return the masses where one of q(z) and p(z) is below `hole` times the other."""
        log_hole = math.log(self.hole)
        missed = of_prior < log_hole + codes.prior_density
        outside = codes.log_prior < log_hole + mixture.log_density[..., 0]
        independent = two_stage(missed.reshape(1, -1), math.inf)
        return {
            HOLES: _mass(missed, independent.error_over_data),
            OUTSIDE: _mass(outside, two_stage(outside, mixture.size).error_over_particles),
        }


@dataclass(frozen=True, repr=False)
class LatentsFinding(Finding):
    """What `Latents` found.

    Attributes:
        data: N, the data of the aggregate posterior.
        wanted: the data that were given; more than N after an interrupt.
        draws: the draws of the aggregate posterior.
        activity: of each dimension; of none where every latent is discrete.
        numbers: the lines of the table.
        sites: the latent sites of the guide.
        hole: the ratio of densities below which one misses the other.
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
        """What was measured, on how many data, in which unit."""
        data = counted(self.data, self.wanted)
        return f"latent space: {data}, {self.draws:,} draws, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return self.data < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The active units, the parts of the rate, and the masses of holes."""
        active = {"active units": Number(self.activity.count)}
        return {**(active if self.activity.names else {}), **self.numbers}

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """For each dimension, what averages to the variance of its posterior mean, [N, D]."""
        return {"squared deviations of the posterior means": self.activity.squares}

    @property
    def collapsed(self) -> bool:
        """Whether z tells x next to nothing, be it for the guide or for the decoder."""
        return self.decoder_ignores_z or self.guide_ignores_x

    @property
    def decoder_ignores_z(self) -> bool:
        r"""Whether log p(x | z) is nearly the same all over the prior.

        Where it varies little, the exact posterior's rate is half its variance over the prior,
        which for normal differences of mean size d is $\pi d^2 / 8$.
        """
        return self._rate_to_be_had < NEGLIGIBLE and self.numbers[SWAPPED].mean < MUCH

    @property
    def _rate_to_be_had(self) -> float:
        return math.pi / 8 * self.numbers[SPREAD].mean ** 2

    @property
    def guide_ignores_x(self) -> bool:
        """Whether the posteriors of different data are nearly the same."""
        return self.numbers[INFORMATION].mean < NEGLIGIBLE

    @property
    def verdict(self) -> list[str]:
        """Whether the latent is collapsed and why, what the numbers leave open, and the holes."""
        return [*self._health(), *self._caveats(), self._holes()]

    @property
    def mismatched(self) -> bool:
        """Whether another's z costs less than I(x; z), which it does at least under p(z | x)."""
        cost = self.numbers[SWAPPED]
        error = 0.0 if math.isnan(cost.error_over_data) else cost.error_over_data
        return cost.mean + 2 * error < self.numbers[INFORMATION].mean

    def _health(self) -> list[str]:
        if self.collapsed:
            return self._collapse()
        told, cost = self.numbers[INFORMATION].mean, self.numbers[SWAPPED].mean
        if self.mismatched:
            return [
                f"Mismatched: the guide tells z {told:.2f} nats about x, and log p(x | z) falls "
                f"by {cost:.2f} nats when z is another datum's: less than if q were the "
                f"posterior. {RETRAIN}"
            ]
        said = (
            f"z tells {told:.2f} nats about x, and log p(x | z) falls by {cost:.2f} nats when z "
            "is another datum's."
        )
        active, names = self.activity.active, self.activity.names
        count, total = self.activity.count, len(names)
        if count == total:
            return [f"Healthy: {said}"] if told >= self._little else self._weak(said)
        unused = [name for name, used in zip(names, active, strict=True) if not used]
        state = "Partially collapsed" if count else "Nearly collapsed"
        if 2 * count > total or (not count and told > MUCH):
            state = "Healthy" if told >= self._little else "Weak"
        return [
            f"{state}: {count} of {total} dimensions are active. {said}",
            f"Unused, with posterior means that vary by less than {ACTIVE}: {_listed(unused)}.",
        ]

    @property
    def _little(self) -> float:
        """The nats below which information is little: one, or half of what these data can hold."""
        return min(MUCH, math.log(self.data) / 2)

    def _weak(self, said: str) -> list[str]:
        limited = self._rate_to_be_had < MUCH
        return [
            f"Weak: {said} Less than {self._little:.2g} nats hardly tell one datum from another.",
            WEIGH_LESS if limited else RETRAIN,
        ]

    def _collapse(self) -> list[str]:
        told, spread = self.numbers[INFORMATION].mean, self.numbers[SPREAD].mean
        apart = f"log p(x | z) at two draws of the prior is {spread:.2g} nats apart on average"
        if self.decoder_ignores_z:
            unread = f"The guide tells z {told:.2f} nats about x, which the decoder does not read."
            return [
                "Collapsed: the decoder ignores z. At two draws of the prior log p(x | z) is "
                f"{spread:.2g} nats apart on average: z can tell x next to nothing.",
                *([] if self.guide_ignores_x else [unread]),
                WEIGH_LESS,
            ]
        if self._rate_to_be_had < MUCH:
            made = "and the decoder makes little of it"
            return [f"Collapsed: z tells {told:.2g} nats about x, {made}: {apart}.", WEIGH_LESS]
        return [
            "Collapsed: the guide ignores x, though the decoder uses z. The posteriors of "
            f"different data are alike, I(x; z) = {told:.2g} nats, but {apart}.",
            RETRAIN,
        ]

    def _caveats(self) -> list[str]:
        said = []
        low, high = self.numbers[INFORMATION].mean, self.numbers[AT_MOST].mean
        ceiling = math.log(self.data)
        if high - low > UNSETTLED:
            said.append(
                f"{self.data:,} data do not settle I(x; z) of their population, which lies "
                f"between {low:.2f} and {high:.2f} nats. Of these data it is at most log N = "
                f"{ceiling:.2f}. The other parts of the rate, and the holes, are those of the "
                "mixture over these data too."
            )
        discrete = [site.name for site in self.sites if site.discrete]
        if discrete:
            said.append(
                f"Discrete: {_listed(discrete)}. Counted in the information and the holes, left "
                "out of the active units."
            )
        apart = [site.name for site in self.sites if not site.separable]
        if apart:
            said.append(
                f"No total correlation: {_listed(apart)} has no density for each dimension by "
                "itself."
            )
        return said

    def _holes(self) -> str:
        missed, outside = self.numbers[HOLES].mean, self.numbers[OUTSIDE].mean
        return (
            f"{100 * missed:.1f}% of the prior's mass lies where q(z) < {self.hole:g} p(z): draws "
            "from there meet a decoder that has hardly been trained. "
            f"{100 * outside:.1f}% of the codes lie where p(z) < {self.hole:g} q(z): the prior "
            "hardly draws them."
        )


def _aggregate(posterior: Posterior, codes: Codes, given: Given) -> tuple[Mixture, Tensor]:
    """Return the mixture over the data at the codes, and log q(z) at the prior's draws, [L]."""
    draws, sources = codes.log_prior.shape
    owners = torch.arange(sources, device=given.x.device).repeat(draws)
    at_codes = Sum(posterior, _rows(codes.values), owners)
    joint = replace(posterior, by_dimension=False)
    at_prior = Sum(joint, _rows(codes.prior_values), torch.full_like(owners, -1))
    (others, of_prior), size = over_data([at_codes, at_prior], given)
    others = others.reshape(draws, sources, -1)[:, :size]
    of_prior = of_prior.reshape(draws, sources)[:, :size] - math.log(size)
    return Mixture(codes.own[:, :size].double(), others, size), of_prior


def _rows(values: Values) -> Values:
    """Lay values [K, M, ...] out as particles, [K M, 1, ...]."""
    return {name: value.reshape(-1, 1, *value.shape[2:]) for name, value in values.items()}


def _surgery(codes: Codes, mixture: Mixture) -> dict[str, Number]:
    """Take the rate apart into information and marginal KL, with the bounds of each."""
    own, joint = mixture.own[..., 0], mixture.log_density[..., 0]
    others, log_prior = mixture.log_density_of_others[..., 0], codes.log_prior
    parts = {
        RATE: own - log_prior,
        INFORMATION: own - joint,
        AT_MOST: own - others,
        MARGINAL: joint - log_prior,
        AT_LEAST: others - log_prior,
    }
    return {name: two_stage(part, mixture.size) for name, part in parts.items()}


def _by_dimension(codes: Codes, mixture: Mixture, *, factorized: bool) -> dict[str, Number]:
    """Take the marginal KL apart into total correlation and, for a product prior, dimensions."""
    product = mixture.log_density[..., 1:].sum(-1)
    parts = {CORRELATION: mixture.log_density[..., 0] - product}
    if factorized:
        parts[DIMENSION_WISE] = product - codes.log_prior
    return {name: two_stage(part, mixture.size) for name, part in parts.items()}


def _mass(inside: Tensor, error: float) -> Number:
    """Return a share of draws; where all agree, the error is that of one draw."""
    return Number(inside.double().mean().item(), error_over_particles=error or 1 / inside.numel())


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
