r"""Measure log p(x) of sequences by particle filters, with an error and the effective particles.

The logarithm of an unbiased estimate is a lower bound. R filters of K particles each give the mean
of R estimates, and from their spread the error over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from pyrovae.measure.findings import (
    Finding,
    NotMeasurable,
    Quantity,
    counted,
    without_error_over_data,
)
from pyrovae.measure.progress import concatenated
from pyrovae.measure.turns import collect_in_turns
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate, iwae_estimate, mean_estimate
from pyrovae.weights.filtering import StateSpace, filter_particles
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["ParticleFilter", "ParticleFilterFinding"]

FEW: Final = 0.1
"""The share of effective particles at the worst step below which the verdict asks for more.

The threshold is ours.
"""

CLOSE: Final = 0.5
"""The nats between one filter and all of them from which the verdict asks for more particles.

The threshold is ours. For a normal log-estimate of variance v, one filter is v / 2 too low.
"""


@final
@dataclass(frozen=True)
class ParticleFilter:
    r"""Estimate log p(x) of sequences by R particle filters of K particles.

    The model's site "z" is a Markov chain and "x" is observed step by step, as by `priors.Markov`,
    `guides.Combiner` and `likelihoods.EachStep`. With `likelihoods.LinearStates` each particle
    carries a Kalman filter of the linear part: a Rao-Blackwellized filter, of a smaller variance.
    The estimate of p(x) is unbiased, so that its logarithm is a lower bound on log p(x), in nats
    per sequence. One importance weight for a whole
    sequence has a variance that grows exponentially with its length; that of a filter grows in
    proportion to it.

    Args:
        particles: K.
        repeats: R, 2 or more.
        limit: the number of sequences to measure, taken from the start; None for all.

    Raises:
        ValueError: for fewer than one particle or sequence, or two repeats.

    References:
        Gordon, Salmond, Smith, 1993. Novel approach to nonlinear/non-Gaussian Bayesian state
            estimation.
        Doucet, de Freitas, Murphy, Russell, 2000. Rao-Blackwellised Particle Filtering for Dynamic
            Bayesian Networks.
        Del Moral, 2004. Feynman-Kac Formulae.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, BackwardGRU
        >>> vae = pv.VAE(
        ...     pv.priors.Markov(MLP(2, 8, 2 * 2), 2),
        ...     pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 8, 5))),
        ...     pv.guides.Combiner(BackwardGRU(5, 8), MLP(2 + 8, 8, 2 * 2), 2),
        ... )
        >>> x, mask = torch.ones(3, 6, 5), torch.ones(3, 6, dtype=torch.bool)
        >>> found = pv.ParticleFilter(50, repeats=4)(vae, x, mask)
        >>> list(found.quantities)
        ['log p(x), from below', 'one filter', 'log p(x), per step']
    """

    particles: int = 100
    repeats: int = 10
    limit: int | None = None

    name: ClassVar[str] = "particle_filter"

    def __post_init__(self) -> None:  # noqa: D105
        least = {"particles": 1, "repeats": 2, "limit": 1}
        low = {
            name: value
            for name, number in least.items()
            if (value := getattr(self, name)) is not None and value < number
        }
        if low:
            raise ValueError(
                "expected at least one particle and one sequence, and two repeats for an error; "
                f"got {', '.join(f'{name}={value}' for name, value in low.items())}"
            )

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> ParticleFilterFinding:
        """Measure a VAE, or a pair (model, guide), on sequences x [N, T, ...].

        Raises:
            NotMeasurable: if the programs are no state-space model.
        """
        resolved = Resolved.of(target)
        given = resolved.given(x, *context).first(self.limit)

        def measured(batch: Given) -> dict[str, Tensor]:
            try:
                space = StateSpace.of(*resolved.pair, *batch)
            except ValueError as error:
                raise NotMeasurable(str(error)) from error
            found = [filter_particles(space, self.particles) for _ in range(self.repeats)]
            return {
                "log_z": torch.stack([each.log_z for each in found]),
                "size": torch.stack([each.size for each in found]).mean(0),
                "steps": space.mask.sum(-1, keepdim=True).T,
            }

        with resolved.evaluating():
            batches = list(given.passes(self.particles))
            done = collect_in_turns(measured, batches, f"{self.repeats} particle filters")
        return ParticleFilterFinding(
            settings=self, wanted=len(given), **concatenated(done.pieces, dim=1)
        )


@dataclass(frozen=True, repr=False)
class ParticleFilterFinding(Finding):
    """The result of `ParticleFilter`, in nats per sequence.

    Attributes:
        settings: the `ParticleFilter` that was run.
        log_z: the logarithms of the estimates of p(x), [R, N].
        size: the effective sample size before each resampling, [T, N], the mean over filters; NaN
            at padding.
        steps: the number of steps of each sequence, [1, N].
        wanted: the number of sequences requested, more than N after an interrupt.
    """

    settings: ParticleFilter
    log_z: Tensor
    size: Tensor
    steps: Tensor
    wanted: int

    @property
    def title(self) -> str:
        """The number of sequences and the settings."""
        return (
            f"{counted(self.log_z.shape[1], self.wanted, 'sequences')}, "
            f"{self.settings.repeats} filters of {self.settings.particles:,} particles, nats per "
            "sequence"
        )

    @property
    def partial(self) -> bool:
        """Whether an interrupt left sequences out."""
        return self.log_z.shape[1] < self.wanted

    @property
    def lower(self) -> Estimate:
        """The bound of all filters, log of the mean estimate of p(x)."""
        return iwae_estimate(self.log_z)

    @property
    def single(self) -> Estimate:
        """The mean bound of one filter, which FIVO maximizes."""
        return mean_estimate(self.log_z)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The bounds, and that of all filters divided by the mean number of steps."""
        lower, steps = self.lower, self.steps[0].to(self.log_z)
        # The error of a ratio of two means (Cochran, 1977, chapter 6).
        mean = lower.value.mean() / steps.mean()
        apart = (lower.value - mean * steps) / steps.mean() + mean
        per_step = Estimate(apart, lower.standard_error / steps.mean())
        return {"log p(x), from below": lower, "one filter": self.single, PER_STEP: per_step}

    @property
    def verdict(self) -> Sequence[str]:
        """Whether the filters have enough particles."""
        found = without_error_over_data(self.log_z.shape[1])
        return [*found, *self._of_filters(), *self._of_particles()]

    def _of_filters(self) -> list[str]:
        impossible = int((self.lower.value == -torch.inf).sum())
        if impossible:
            return [
                f"No particle of any filter fits {impossible:,} sequences, whose bound is minus "
                "infinity: they are impossible under the model, or the guide proposes nothing "
                "that can emit them."
            ]
        apart = self.lower.mean - self.single.mean
        said = f"One filter is {apart:.2f} nats below all {self.settings.repeats}"
        if apart > CLOSE:
            return [f"{said}, above {CLOSE:g} (our threshold): use more particles."]
        return [f"{said}: the bound has nearly converged in the number of filters."]

    def _of_particles(self) -> list[str]:
        worst = self.size.nan_to_num(float("inf")).min(0).values.mean().item()
        if worst >= FEW * self.settings.particles:
            return []
        return [
            f"At the worst step of a sequence {worst:.1f} of {self.settings.particles:,} "
            "particles are effective on average: the guide proposes steps that the model finds "
            "unlikely. Train it further, or with objectives.FIVO."
        ]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The fewest effective particles at any step of each sequence, [N]."""
        return {"effective particles": self.size.nan_to_num(float("inf")).min(0).values}


PER_STEP: Final = "log p(x), per step"
