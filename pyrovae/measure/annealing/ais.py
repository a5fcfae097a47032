r"""Annealed importance sampling, a lower bound on log p(x), and the gap that limits its error.

Chains move from a start density f_0 that can be sampled to the posterior, along the geometric path
$\pi_\beta \propto f_0^{1 - \beta} f_1^\beta$ with $f_1(z) = p(x, z)$. Each chain accumulates a
log-weight,

    log_w[k, n] = sum_t (beta_t - beta_{t-1}) [log f_1 - log f_0](z_{t-1}),   E exp(log_w) = p(x)

These log-weights [K chains, N data] reduce like those of importance sampling: their log-mean-exp
is a stochastic lower bound on log p(x), in nats. Chains that run backward from an exact posterior
sample satisfy E exp(-log_w) = 1 / p(x) and give a stochastic upper bound. An exact posterior
sample is known only for data simulated from the model: it is the z that x was drawn with. The gap
between the two bounds on simulated data limits the error of the lower bound there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.annealing.ais_finding import AISFinding
from pyrovae.measure.annealing.hmc import StepSizes, transition
from pyrovae.measure.annealing.path import LatentDensity, Point, Start
from pyrovae.measure.progress import concatenated
from pyrovae.measure.simulate import simulate
from pyrovae.measure.turns import collect_in_turns
from pyrovae.types import ContextValue, Target
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved, safe_to_compile

__all__ = ["AIS", "AISFinding", "Schedule", "linear", "sigmoid"]

Schedule = Callable[[int], Tensor]
"""A function of the number of temperatures T that returns beta_0 = 0 < ... < beta_T = 1."""

NUMBERS: Final = 2**18
"""The entries of x, over (chain, datum) pairs, that one batch holds.

Small batches are used because an interrupt loses the batch that is running.
"""

COMPILED_FROM: Final = 4_000
"""The number of gradient evaluations above which compilation, which takes seconds, pays off."""

FIRST_TRANSITIONS: Final = 30
"""Transitions at the first temperature that adapt the initial step sizes."""

STEEPNESS: Final = 4.0
"""The range of the sigmoid schedule, from -4 to 4, as in Wu et al. (2017)."""


def linear(temperatures: int) -> Tensor:
    r"""Return evenly spaced inverse temperatures $\beta_t = t / T$, of shape [T + 1].

    Example:
        >>> linear(2)
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    return torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)


def sigmoid(temperatures: int) -> Tensor:
    r"""Return inverse temperatures that are dense near 0 and 1, of shape [T + 1].

    $$ \beta_t = \frac{s_t - s_0}{s_T - s_0},\quad s_t = \sigma(4 (2 t / T - 1)) $$

    References:
        Wu, Burda, Salakhutdinov, Grosse, 2017. On the Quantitative Analysis of Decoder-Based
            Generative Models.

    Example:
        >>> from pyrovae.measure.annealing.ais import sigmoid
        >>> sigmoid(4)
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    raw = (STEEPNESS * (2 * linear(temperatures) - 1)).sigmoid()
    return (raw - raw[0]) / (raw[-1] - raw[0])


@dataclass(frozen=True)
class AIS:
    r"""Estimate log p(x) by annealed importance sampling, with a bound on its error.

    Calling it computes a lower bound on log p(x) for the first `limit` data. It also simulates as
    many data from the model, with the same context, and bounds their log p(x) from below and from
    above (bidirectional Monte Carlo). The mean gap between these two bounds limits the error of
    the lower bound on simulated data.

    Each temperature ends with one Hamiltonian transition. Its step sizes (one per chain) and
    scales (one per dimension and datum) are adapted on a first set of chains, whose weights are
    discarded. The chains that are used adapt nothing, so the bounds stay valid.

    Args:
        temperatures: T, the number of temperatures.
        particles: K, the number of chains per datum.
        limit: the number of data to measure, taken from the start.
        start: the start density f_0, "prior" or "guide". A good guide is close to the posterior
            and needs fewer temperatures. A poor guide has thin tails; the prior is the safe
            choice.
        schedule: the spacing of the temperatures: `sigmoid`, `linear` or your own function.
        leapfrogs: the number of leapfrog steps in a Hamiltonian trajectory.

    Raises:
        ValueError: if a number is below 1, `start` is neither name, or the schedule does not
            increase from 0 to 1.

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
                raise ValueError(
                    f"expected {name} of at least 1; got {getattr(self, name)}: raise {name}"
                )
        if self.start not in ("prior", "guide"):
            raise ValueError(
                f"expected a start of 'prior' or 'guide'; got start={self.start!r}: pass one of "
                "these"
            )
        betas = self.schedule(self.temperatures)
        ends = len(betas) == self.temperatures + 1 and betas[0] == 0 and betas[-1] == 1
        if not ends or bool((betas.diff() <= 0).any()):
            first = [round(float(beta), 4) for beta in betas[:4]]
            raise ValueError(
                f"expected a schedule that increases from 0 to 1 in {self.temperatures} steps; "
                f"got {first} ... of {len(betas)} numbers: return temperatures + 1 increasing "
                "values"
            )

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> AISFinding:
        """Measure a VAE, or a pair (model, guide), on the first data of x [N, ...].

        Raises:
            ValueError: naming the site, if a latent can neither be mapped to real numbers nor
                summed out.
        """
        resolved = Resolved.of(target)
        x, *context = resolved.given(x, *context)  # type: ignore[assignment]
        rows = max(1, NUMBERS // max(64, x[0].numel()) // self.particles)
        with resolved.evaluating():
            batches = list(resolved.given(x, *context).first(self.limit).cut(rows))
            # Five passes: two adapt, two go forward and one goes backward.
            gradients = 5 * len(batches) * self.temperatures * (self.leapfrogs + 1)
            compiled = gradients >= COMPILED_FROM and safe_to_compile(target)
            density = LatentDensity(resolved.pair, self.particles, self.start, *batches[0])

            def measured(batch: Given) -> dict[str, Tensor]:
                path = density.given(*batch)
                if compiled:
                    path.compile()
                return self._measured(target, path)

            annealing = f"annealing over {self.temperatures:,} temperatures"
            found = collect_in_turns(measured, batches, annealing)
        # The tensors have shape [..., N].
        tensors = concatenated(found.pieces, dim=1)
        return AISFinding(settings=self, wanted=min(self.limit, len(x)), **tensors)

    @torch.no_grad()
    def forward(self, path: LatentDensity, step_sizes: Sequence[StepSizes]) -> Tensor:
        """Run K chains from the start density to the posterior; return their log-weights [K, N].

        Args:
            path: the two densities at the ends of the path, given data.
            step_sizes: one entry per temperature, from `adapted`.
        """
        point = path.point(path.draw())
        betas = self.schedule(self.temperatures).to(point.u)
        log_w = torch.zeros_like(point.log_joint)
        for before, beta, sizes in zip(betas[:-1], betas[1:], step_sizes, strict=True):
            log_w = log_w + (beta - before) * point.log_ratio
            point, _ = self._moved(path, point, beta, sizes)
        return log_w

    @torch.no_grad()
    def backward(self, path: LatentDensity, step_sizes: Sequence[StepSizes], u: Tensor) -> Tensor:
        """Run K chains backward from exact posterior samples; return their log-weights [K, N].

        `-log_mean_exp(-log_w)` is at least log p(x) in expectation.

        Args:
            path: the two densities at the ends of the path, given data.
            step_sizes: one entry per temperature, from `adapted`.
            u: exact posterior samples, [K, N, D].
        """
        point = path.point(u)
        betas = self.schedule(self.temperatures).to(u)
        log_w = torch.zeros_like(point.log_joint)
        steps = list(zip(betas[:-1], betas[1:], step_sizes, strict=True))
        for before, beta, sizes in reversed(steps):
            point, _ = self._moved(path, point, beta, sizes)
            log_w = log_w + (beta - before) * point.log_ratio
        return log_w

    @torch.no_grad()
    def adapted(self, path: LatentDensity) -> tuple[list[StepSizes], Tensor]:
        """Adapt step sizes on separate chains; return them and the acceptance rates [T, N]."""
        point = path.point(path.draw())
        betas = self.schedule(self.temperatures).to(point.u)
        sizes = StepSizes.initial(point.u)
        for _ in range(FIRST_TRANSITIONS):
            point, accepted = self._moved(path, point, betas[1], sizes)
            sizes = sizes.adapted(point.u, accepted)
        step_sizes, acceptance = [], []
        for beta in betas[1:]:
            point, accepted = self._moved(path, point, beta, sizes)
            sizes = sizes.adapted(point.u, accepted)
            step_sizes.append(sizes)
            acceptance.append(accepted.mean(0))
        return step_sizes, torch.stack(acceptance)

    def _moved(
        self, path: LatentDensity, point: Point, beta: Tensor, sizes: StepSizes
    ) -> tuple[Point, Tensor]:
        """Return the chains after one transition, and its acceptance probabilities [K, N]."""
        return transition(path.slope, point, beta, step_sizes=sizes, leapfrogs=self.leapfrogs)

    def _measured(self, target: Target, path: LatentDensity) -> dict[str, Tensor]:
        """Run all chains of one batch, on the test data and on simulated data."""
        step_sizes, acceptance = self.adapted(path)
        log_w = self.forward(path, step_sizes)
        trace, x = simulate(target, *path.data)
        simulated = path.given(x, *path.data[1:])
        step_sizes, _ = self.adapted(simulated)
        return {
            "log_w": log_w,
            "below": self.forward(simulated, step_sizes),
            "above": self.backward(simulated, step_sizes, simulated.unconstrained(trace)),
            "acceptance": acceptance,
        }
