r"""Annealed importance sampling, and the sandwich that bounds its error.

Chains go from a density that can be drawn, f_0, to the posterior along the geometric path
$\pi_\beta \propto f_0^{1 - \beta} f_1^\beta$, $f_1(z) = p(x, z)$. Each gathers a log-weight,

    log_w[k, n] = sum_t (beta_t - beta_{t-1}) [log f_1 - log f_0](z_{t-1}),   E exp(log_w) = p(x)

so that all that is said of log-weights [K chains, N data] holds of these: their log-mean-exp is a
stochastic lower bound on log p(x). Chains that go backwards from an exact draw of the posterior
have E exp(-log_w) = 1 / p(x), and bound log p(x) from above. Such a draw is at hand where x was
drawn from the model together with its z: there, and only there, both bounds are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.annealing.hmc import Pace, transition
from pyrovae.measure.annealing.path import LatentDensity, Point, Start
from pyrovae.measure.findings import Finding, Quantity, collect, counted, without_error_over_data
from pyrovae.measure.simulate import simulate
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import (
    Estimate,
    difference,
    effective_sample_size,
    iwae_estimate,
    log_mean_exp,
)
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved, safe_to_compile

Schedule = Callable[[int], Tensor]
"""A function of the number of temperatures T that returns beta_0 = 0 < ... < beta_T = 1."""

NUMBERS: Final = 2**18
"""The numbers of x in the (chain, datum) pairs that move together: an interrupt loses little."""

COMPILED_FROM: Final = 4_000
"""The gradients from which compiling, some seconds of it, pays."""

FIRST_TRANSITIONS: Final = 30
STEEPNESS: Final = 4.0

LOOSE: Final = 0.5
"""The nats of a gap that are worth a word."""

ACCEPTED_SELDOM: Final = 0.4

CROSSED: Final = 4.0
"""The standard errors by which bounds do not cross by chance."""

FEW: Final = 0.25
"""The share of effective chains below which the bound rests on too few."""


def linear(temperatures: int) -> Tensor:
    r"""Return $\beta_t = t / T$, of shape [T + 1].

    Example:
        >>> linear(2)
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    return torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)


def sigmoid(temperatures: int) -> Tensor:
    r"""Return a schedule that is dense at both ends, of shape [T + 1].

    $$ \beta_t = \frac{s_t - s_0}{s_T - s_0},\quad s_t = \sigma(4 (2 t / T - 1)) $$

    References:
        Wu, Burda, Salakhutdinov, Grosse, 2017. On the Quantitative Analysis of Decoder-Based
            Generative Models.

    Example:
        >>> sigmoid(4)
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    raw = (STEEPNESS * (2 * linear(temperatures) - 1)).sigmoid()
    return (raw - raw[0]) / (raw[-1] - raw[0])


@dataclass(frozen=True)
class AIS:
    r"""Measure log p(x) by annealed importance sampling, and how far that can be wrong.

    Called, it bounds log p of the first data from below, and for as many data that it draws from
    the model, with the same context, from below and from above (bidirectional Monte Carlo). The
    gap between the two, on average over those, bounds the error of the lower bound there.

    Each temperature ends in one Hamiltonian transition. Its step sizes, one for each chain, and
    scales, one for each dimension of each datum, are adapted on a first set of chains, whose
    weights are not used; the chains that are used start anew and adapt nothing, so that the bounds
    hold.

    Args:
        temperatures: T.
        particles: K, the chains of each datum.
        limit: how many of the data to measure, the first ones.
        start: where the chains start: at "prior" or "guide". A good guide is near the posterior,
            so fewer temperatures do; a bad one has thin tails, and the prior is safe.
        schedule: how the temperatures are spaced: `sigmoid`, `linear` or a function of your own.
        leapfrogs: the steps of a Hamiltonian trajectory.

    Raises:
        ValueError: if a number is below 1, or a schedule does not rise from 0 to 1.

    References:
        Neal, 2001. Annealed Importance Sampling.
        Grosse, Ghahramani, Adams, 2015. Sandwiching the Marginal Likelihood Using Bidirectional
            Monte Carlo.
        Wu, Burda, Salakhutdinov, Grosse, 2017. On the Quantitative Analysis of Decoder-Based
            Generative Models.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(4, latents=2, hidden=8, likelihood=pv.likelihoods.Normal)
        >>> found = pv.AIS(50, particles=8)(vae, torch.randn(3, 4))
        >>> list(found.quantities)  # doctest: +NORMALIZE_WHITESPACE
        ['AIS, from below', 'simulated data, from below', 'simulated data, from above',
         'simulated data, gap']
    """

    name: ClassVar[str] = "ais"

    temperatures: int = 1000
    particles: int = 16
    limit: int = 64
    start: Start = "prior"
    schedule: Schedule = sigmoid
    leapfrogs: int = 3

    def __post_init__(self) -> None:  # noqa: D105
        for name in ("temperatures", "particles", "limit", "leapfrogs"):
            if getattr(self, name) < 1:
                raise ValueError(f"AIS needs {name} of at least 1; got {getattr(self, name)}")
        if self.start not in ("prior", "guide"):
            raise ValueError(f"AIS starts at 'prior' or 'guide'; got start={self.start!r}")
        betas = self.schedule(self.temperatures)
        ends = len(betas) == self.temperatures + 1 and betas[0] == 0 and betas[-1] == 1
        if not ends or bool((betas.diff() <= 0).any()):
            raise ValueError(
                f"a schedule rises from 0 to 1 in {self.temperatures} steps; got "
                f"{[round(float(beta), 4) for beta in betas[:4]]} ... of {len(betas)} numbers"
            )

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> AISFinding:
        """Measure a VAE, or a pair of programs, on the first data.

        Raises:
            ValueError: naming the site, if a latent can neither be moved nor summed out.
        """
        rows = max(1, NUMBERS // max(64, x[0].numel()) // self.particles)
        resolved = Resolved.of(target)
        with resolved.evaluating():
            batches = list(resolved.given(x, *context).first(self.limit).cut(rows))
            gradients = 5 * len(batches) * self.temperatures * (self.leapfrogs + 1)
            compiled = gradients >= COMPILED_FROM and safe_to_compile(target)
            density = LatentDensity(resolved.pair, self.particles, self.start, *batches[0])

            def measured(batch: Given) -> dict[str, Tensor]:
                path = density.given(*batch)
                if compiled:
                    path.compile()
                return self._measured(target, path)

            annealing = f"annealing over {self.temperatures:,} temperatures"
            found = collect(measured, batches, annealing)
        return AISFinding(settings=self, wanted=min(self.limit, len(x)), **_joined(found.pieces))

    @torch.no_grad()
    def forward(self, path: LatentDensity, paces: Sequence[Pace]) -> Tensor:
        """Return the log-weights of K chains that go from the start to the posterior, [K, N].

        Args:
            path: the two ends of the path, given data.
            paces: one for each temperature, from `adapted`.
        """
        point = path.point(path.draw())
        betas = self.schedule(self.temperatures).to(point.u)
        log_w = torch.zeros_like(point.log_joint)
        for before, beta, pace in zip(betas[:-1], betas[1:], paces, strict=True):
            log_w = log_w + (beta - before) * point.log_ratio
            point, _ = self._moved(path, point, beta, pace)
        return log_w

    @torch.no_grad()
    def backward(self, path: LatentDensity, paces: Sequence[Pace], u: Tensor) -> Tensor:
        """Return the log-weights of K chains from an exact draw of the posterior, [K, N].

        Minus the log-mean-exp of minus these is at least log p(x) in expectation.

        Args:
            path: the two ends of the path, given data.
            paces: one for each temperature, from `adapted`.
            u: exact draws of the posterior, [K, N, D].
        """
        point = path.point(u)
        betas = self.schedule(self.temperatures).to(u)
        log_w = torch.zeros_like(point.log_joint)
        steps = list(zip(betas[:-1], betas[1:], paces, strict=True))
        for before, beta, pace in reversed(steps):
            point, _ = self._moved(path, point, beta, pace)
            log_w = log_w + (beta - before) * point.log_ratio
        return log_w

    @torch.no_grad()
    def adapted(self, path: LatentDensity) -> tuple[list[Pace], Tensor]:
        """Adapt the paces on chains of their own; return them and the acceptance rates, [T, N]."""
        point = path.point(path.draw())
        betas = self.schedule(self.temperatures).to(point.u)
        pace = Pace.at(point.u)
        for _ in range(FIRST_TRANSITIONS):
            point, accepted = self._moved(path, point, betas[1], pace)
            pace = pace.adapted(point.u, accepted)
        paces, acceptance = [], []
        for beta in betas[1:]:
            point, accepted = self._moved(path, point, beta, pace)
            pace = pace.adapted(point.u, accepted)
            paces.append(pace)
            acceptance.append(accepted.mean(0))
        return paces, torch.stack(acceptance)

    def _moved(
        self, path: LatentDensity, point: Point, beta: Tensor, pace: Pace
    ) -> tuple[Point, Tensor]:
        return transition(path.slope, point, beta, pace=pace, leapfrogs=self.leapfrogs)

    def _measured(self, target: Target, path: LatentDensity) -> dict[str, Tensor]:
        paces, acceptance = self.adapted(path)
        log_w = self.forward(path, paces)
        trace, x = simulate(target, *path.data)
        simulated = path.given(x, *path.data[1:])
        paces, _ = self.adapted(simulated)
        return {
            "log_w": log_w,
            "below": self.forward(simulated, paces),
            "above": self.backward(simulated, paces, simulated.unconstrained(trace)),
            "acceptance": acceptance,
        }


@dataclass(frozen=True, repr=False)
class AISFinding(Finding):
    """What AIS found: log p(x) from below on the test data, from both sides on simulated ones.

    Attributes:
        settings: of AIS.
        log_w: the log-weights on the test data, [K, N].
        below: the log-weights of forward chains on simulated data, [K, N].
        above: the log-weights of backward chains on simulated data, [K, N].
        acceptance: the rates on the test data, [T, N].
        wanted: the data asked for: an interrupt leaves some out.
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
        """The stochastic lower bound on log p(x) of simulated data."""
        return iwae_estimate(self.below)

    @property
    def simulated_upper(self) -> Estimate:
        """The stochastic upper bound there; the chains of a datum share their start.

        So the particles tell no error of their own: it is in that over the simulated data.
        """
        return _over_data_alone(-log_mean_exp(-self.above))

    @property
    def gap(self) -> Estimate:
        """Upper less lower bound on simulated data: what AIS from below can be short of there."""
        return _over_data_alone(self.simulated_upper.value - self.simulated_lower.value)

    @property
    def title(self) -> str:
        """How many data, and the settings."""
        return (
            f"{counted(self.log_w.shape[1], self.wanted)}, AIS with {self.settings.particles:,} "
            f"chains over {self.settings.temperatures:,} temperatures, nats per datum"
        )

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return self.log_w.shape[1] < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The bounds and the gap."""
        return {
            "AIS, from below": self.lower,
            "simulated data, from below": self.simulated_lower,
            "simulated data, from above": self.simulated_upper,
            "simulated data, gap": self.gap,
        }

    @property
    def verdict(self) -> Sequence[str]:
        """How far AIS from below can be short, as far as simulated data tell."""
        alone = without_error_over_data(self.log_w.shape[1])
        return [*self._between(), *alone, *self._movement()]

    def _between(self) -> list[str]:
        gap, error = self.gap.mean, self.gap.error_over_data
        if not math.isfinite(gap):
            return ["The bounds on data drawn from the model are not finite: nothing is known."]
        if gap < -CROSSED * error:
            return [
                f"The bounds cross by {-gap:.2f} ± {error:.2f} nats, more than chance allows: the "
                "program does not draw from the density that it scores. Believe neither."
            ]
        wide = "" if math.isnan(error) else f" ± {error:.2f}"
        if gap <= 0:
            return [
                "On data drawn from the model the bounds from below and from above meet "
                f"({gap:.2f}{wide} nats apart): nothing is seen that AIS from below is short of "
                "there, nor is there on the test data as far as they are like those."
            ]
        found = [
            f"On data drawn from the model, the bound from above lies {gap:.2f}{wide} nats over "
            "that from below: AIS from below is short of log p(x) by no more on average there, "
            "and on the test data as far as they are like those."
        ]
        if gap > LOOSE:
            other = ", or start at the guide" if self.settings.start == "prior" else ""
            found.append(f"That is more than {LOOSE:g} nats: take more temperatures{other}.")
        return found

    def _movement(self) -> list[str]:
        found, rate = [], self.acceptance.mean().item()
        if rate < ACCEPTED_SELDOM:
            found.append(
                f"The chains moved in {100 * rate:.0f}% of transitions only: take more leapfrog "
                "steps or more temperatures."
            )
        effective = effective_sample_size(self.log_w).mean().item()
        if effective < FEW * self.settings.particles:
            found.append(
                f"On the test data {effective:.1f} of {self.settings.particles:,} chains carry "
                "the weight: the bound there may be far too low, its error too small, and the "
                "data unlike the model's. Take more temperatures."
            )
        return found

    def beside(self, bound: Estimate, k: int, *, independent: bool) -> Sequence[str]:
        """Say what annealing found over IWAE-k on the same data."""
        return [_beside(_gain(self.lower, bound, independent=independent), k)]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The effective number of chains and the acceptance rate, of the test data."""
        return {
            "AIS, effective chains": effective_sample_size(self.log_w),
            "AIS, acceptance": self.acceptance.mean(0),
        }


def _joined(pieces: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}


def _over_data_alone(value: Tensor) -> Estimate:
    return Estimate(value, torch.full_like(value, math.nan))


def _gain(annealed: Estimate, bound: Estimate, *, independent: bool) -> Estimate:
    """Return what annealing found over a bound on the same data, the first of them."""
    n = len(annealed.value)
    first = Estimate(bound.value[:n], bound.standard_error[:n])
    return difference(annealed, first, independent=independent)


def _beside(gain: Estimate, k: int) -> str:
    """Say what annealing found over the bound at k, and whether that is more than chance."""
    mean, error, n = gain.mean, gain.error_over_particles, len(gain.value)
    whose = f"the first {n:,} data" if n > 1 else "the first datum"
    said = f"On {whose} annealed importance sampling finds {mean:+.2f}"
    if math.isnan(error):
        return f"{said} nats beside IWAE-{k}, with one chain and no error."
    if mean > 2 * error:
        what = "that bound is short of log p(x) there by so much at least."
    elif mean < -2 * error:
        what = (
            "it is the looser bound there, and tells nothing of the other. Take more "
            "temperatures, or start at the guide."
        )
    else:
        what = "no more than that bound, within errors."
    return f"{said} ± {error:.2f} nats beside IWAE-{k}: {what}"
