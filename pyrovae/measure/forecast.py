r"""Forecast the next steps of sequences, and score forecasts of steps that were held back.

A particle filter reads the steps so far. Its particles at the last step, drawn by their weights,
go on along the prior's chain, and each new step of latents emits a step of x, given what its
particle believes of a linear state if there is one: draws of

$$ p(x_{T+1:T+H} | x_{1:T}) $$
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from pyrovae.measure.findings import (
    Finding,
    NotMeasurable,
    Number,
    Quantity,
    counted,
    error_of_share,
    without_error_over_data,
)
from pyrovae.measure.progress import concatenated
from pyrovae.measure.turns import collect_in_turns
from pyrovae.nets.sequences import step_mask
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate, difference
from pyrovae.weights.filtering import StateSpace, filter_particles
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["Forecast", "ForecastFinding", "crps", "forecast"]

SHARE: Final = 0.9
"""The probability of the interval whose coverage is measured."""

FEWEST: Final = 19
"""The fewest draws whose range holds a further draw with that probability."""


def crps(draws: Tensor, value: Tensor) -> Tensor:
    r"""Return the continuous ranked probability score of forecasts, in units of the value.

    $$ E|X - y| - \frac12 E|X - X'| $$

    Zero is a sure and right forecast. For one draw it is the absolute error, for values 0 and 1
    the Brier score. The estimate from S draws is unbiased for the distribution that they are of.

    Args:
        draws: X, [S, ...], two or more.
        value: y, [...].

    Raises:
        ValueError: for fewer than two draws, or draws of other shapes than the value.

    References:
        Gneiting, Raftery, 2007. Strictly Proper Scoring Rules, Prediction, and Estimation.
        Ferro, 2014. Fair scores for ensemble forecasts.

    Example:
        >>> import torch
        >>> from pyrovae.measure.forecast import crps
        >>> crps(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))
        tensor([0.])
    """
    if len(draws) < 2 or draws.shape[1:] != value.shape:
        raise ValueError(
            f"expected two or more draws [S, ...] of values of shape {tuple(value.shape)}; got "
            f"{tuple(draws.shape)}"
        )
    number = len(draws)
    return (draws - value).abs().mean(0) - _spread(draws) / (number * (number - 1))


def _spread(draws: Tensor) -> Tensor:
    """Return the sum of |x_i - x_j| over all pairs i < j of [S, ...]."""
    ranks = 2 * torch.arange(len(draws), device=draws.device) - len(draws) + 1
    return torch.einsum("s...,s->...", draws.sort(0).values, ranks.to(draws))


@torch.no_grad()
def forecast(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    steps: int,
    draws: int = 500,
    particles: int = 500,
) -> Tensor:
    r"""Draw the next steps of sequences, $x_{T+1:T+H} \sim p(\cdot | x_{1:T})$, [S, N, H, ...].

    Quantiles are those of the draws, `draws.quantile(0.9, 0)`. The model's site "z" is a Markov
    chain and "x" is observed step by step, as for `ParticleFilter`.

    A sequence goes on after its own last step. Covariates of the steps to forecast stand there, at
    padding: pad x, the mask and the covariates [N, T, C] by H steps, and fill in these covariates.

    Args:
        target: a VAE, or a pair (model, guide).
        x: sequences [N, T, ...].
        *context: the other arguments of the programs; the last is the mask of the steps [N, T].
        steps: H.
        draws: S.
        particles: the particles of the filter. As many as are effective at the last step stand
            behind the draws.

    Raises:
        NotMeasurable: if the programs are no state-space model, or covariates of the steps ahead
            are missing.
        ValueError: for less than one step, draw or particle.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, BackwardGRU
        >>> vae = pv.VAE(
        ...     pv.priors.Markov(MLP(2, 8, 2 * 2), 2),
        ...     pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 8, 5))),
        ...     pv.guides.Combiner(BackwardGRU(5, 8), MLP(2 + 8, 8, 2 * 2), 2),
        ... )
        >>> x, mask = torch.ones(3, 6, 5), torch.ones(3, 6, dtype=torch.bool)
        >>> pv.forecast(vae, x, mask, steps=4, draws=100).shape
        torch.Size([100, 3, 4, 5])
    """
    sizes = {"steps": steps, "draws": draws, "particles": particles}
    if low := {name: value for name, value in sizes.items() if value < 1}:
        raise ValueError(f"steps, draws and particles are 1 or more; got {low}")
    resolved = Resolved.of(target)

    def drawn(batch: Given) -> Tensor:
        return _ahead(_space(resolved, batch, steps), **sizes)

    with resolved.evaluating():
        batches = list(resolved.given(x, *context).passes(max(draws, particles)))
        found = collect_in_turns(drawn, batches, f"forecasts of {steps} steps")
    return torch.cat(found.pieces, 1)


def _space(resolved: Resolved, given: Given, steps: int) -> StateSpace:
    try:
        space = StateSpace.of(*resolved.pair, *given)
    except ValueError as error:
        raise NotMeasurable(str(error)) from error
    if not hasattr(space.prior, "inputs") and not space.mask.all():
        raise NotMeasurable(
            f"a {type(space.prior).__name__} may depend on the number of the step, which differs "
            "ahead of sequences of several lengths: forecast those of one length, without padding"
        )
    for part in (space.prior, space.observed):
        _check_known(getattr(part, "inputs", None), space.mask, steps)
    return space


def _check_known(inputs: Tensor | None, mask: Tensor, steps: int) -> None:
    """Check that inputs [..., T, C] hold so many steps after the last one of each sequence."""
    longest = int(mask.sum(1).max())
    # Of one step alone nobody can tell whether its inputs hold for all.
    of_all = inputs is None or (inputs.shape[-2] == 1 and mask.shape[1] > 1)
    if not of_all and longest + steps > mask.shape[1]:
        raise NotMeasurable(
            f"the steps take covariates, and those of the steps ahead are missing: x has "
            f"{mask.shape[1]} steps, and a sequence of {longest} goes on for {steps}. Pad x, the "
            f"mask and the covariates by {longest + steps - mask.shape[1]} more steps, with the "
            "covariates of the steps ahead"
        )


def _ahead(space: StateSpace, steps: int, draws: int, particles: int) -> Tensor:
    """Return draws of the next steps, [S, N, H, ...]."""
    z, belief = filter_particles(space, particles).resampled(draws)
    lengths, found = space.mask.sum(1), []
    for t in range(steps):
        z = space.prior.step(lengths + t, z).sample()
        x, belief = space.observed.draw_step(lengths + t, z, belief)
        found.append(x)
    return torch.stack(found, 2)


@final
@dataclass(frozen=True)
class Forecast:
    r"""Hold back the last H steps of each sequence, forecast them, and score the forecasts.

    The score is the continuous ranked probability score (see `pyrovae.measure.forecast.crps`),
    the mean over steps and variables, in units of x. Beside it stands that of a forecast without
    a model, which draws one of the steps of the sequence that were seen. Sequences of H steps or
    fewer are left out. Distances between classes without an order mean nothing.

    Args:
        steps: H.
        draws: the draws of each forecast, 19 or more.
        particles: the particles of the filter.
        limit: the number of sequences to measure, taken from the start; None for all.

    Raises:
        ValueError: for less than one step, particle or sequence, or 19 draws.

    References:
        Gneiting, Raftery, 2007. Strictly Proper Scoring Rules, Prediction, and Estimation.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, BackwardGRU
        >>> vae = pv.VAE(
        ...     pv.priors.Markov(MLP(2, 8, 2 * 2), 2),
        ...     pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 8, 5))),
        ...     pv.guides.Combiner(BackwardGRU(5, 8), MLP(2 + 8, 8, 2 * 2), 2),
        ... )
        >>> x, mask = torch.ones(3, 6, 5), torch.ones(3, 6, dtype=torch.bool)
        >>> list(pv.Forecast(steps=2, draws=50)(vae, x, mask).quantities)
        ['CRPS', 'CRPS of the steps seen', 'difference', '90 % interval holds']
    """

    steps: int
    draws: int = 200
    particles: int = 200
    limit: int | None = None

    name: ClassVar[str] = "forecast"

    def __post_init__(self) -> None:  # noqa: D105
        least = {"steps": 1, "draws": FEWEST, "particles": 1, "limit": 1}
        values = {name: getattr(self, name) for name in least}
        if low := {n: v for n, v in values.items() if v is not None and v < least[n]}:
            raise ValueError(
                f"expected at least one step, particle and sequence, and {FEWEST} draws; got {low}"
            )

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> ForecastFinding:
        """Measure a VAE, or a pair (model, guide), on sequences x [N, T, ...].

        Raises:
            NotMeasurable: if the programs are no state-space model, no sequence is longer than
                H steps, or the mask is not that of x.
            ValueError: if the last context is no mask of the steps.
        """
        given = Resolved.of(target).given(x, *context).first(self.limit)
        x = given.x
        mask = step_mask(given.context, "Forecast")
        if mask.shape != x.shape[:2]:
            raise NotMeasurable(
                f"the mask of sequences x {tuple(x.shape)} has the shape {tuple(x.shape[:2])}; "
                f"got {tuple(mask.shape)}"
            )
        lengths = mask.sum(1) - self.steps
        long = (lengths > 0).nonzero().squeeze(1)
        if not len(long):
            raise NotMeasurable(
                f"no sequence is longer than the {self.steps} steps that are held back: the "
                f"longest has {int(mask.sum(1).max())}"
            )
        (x, *others), lengths = given.rows(long), lengths[long]
        seen = torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1)
        sizes = {"steps": self.steps, "draws": self.draws, "particles": self.particles}
        found = forecast(target, x, *others[:-1], seen, **sizes)
        pieces = [
            _scored(found[:, n], x[n, :length], x[n, length : length + self.steps])
            for n, length in enumerate(lengths.tolist())
        ]
        return ForecastFinding(settings=self, wanted=len(long), **concatenated(pieces))


def _scored(draws: Tensor, seen: Tensor, ahead: Tensor) -> dict[str, Tensor]:
    """Return the scores of one sequence, from draws [S, H, ...], as tensors [1, ...]."""
    # A further draw lies between the order statistics number a and S + 1 - a with the
    # probability (S + 1 - 2 a) / (S + 1): a is such that this is SHARE.
    rank = ((1 - SHARE) / 2 * (len(draws) + 1) - 1) / (len(draws) - 1)
    low, high = (draws.quantile(min(max(q, 0.0), 1.0), 0) for q in (rank, 1 - rank))
    past = seen.unsqueeze(1)
    # The steps seen are the whole distribution of that forecast, not a sample of it.
    of_past = (past - ahead).abs().mean(0) - _spread(past) / len(seen) ** 2
    found = {
        "score": crps(draws, ahead),
        "past": of_past.expand(ahead.shape),
        "held": ((low <= ahead) & (ahead <= high)).to(draws),
    }
    return {name: each.flatten(1).mean(1).unsqueeze(0) for name, each in found.items()}


@dataclass(frozen=True, repr=False)
class ForecastFinding(Finding):
    """The result of `Forecast`, in units of x.

    Attributes:
        settings: the `Forecast` that was run.
        score: the score of each step ahead, [N, H], the mean over variables.
        past: that of a forecast by the steps seen.
        held: the share of variables within the 90 % interval.
        wanted: the number of sequences requested.
    """

    settings: Forecast
    score: Tensor
    past: Tensor
    held: Tensor
    wanted: int

    @property
    def title(self) -> str:
        """The number of sequences and the settings."""
        return (
            f"{counted(len(self.score), self.wanted, 'sequences')}, {self.settings.steps} steps "
            f"ahead, {self.settings.draws:,} draws, units of x"
        )

    @property
    def partial(self) -> bool:
        """Whether an interrupt left sequences out."""
        return len(self.score) < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The scores, their difference, and the share of values within their intervals."""
        own, past = (_over_sequences(each) for each in (self.score, self.past))
        held = _over_sequences(self.held)
        # Where all sequences agree, as in a share of 1, they leave the error of one case each.
        error = held.error_over_data or error_of_share(held.value.sum().item(), len(held.value))
        return {
            "CRPS": own,
            "CRPS of the steps seen": past,
            "difference": difference(own, past, independent=True),
            f"{SHARE:.0%} interval holds".replace("%", " %"): Number(held.mean, error),
        }

    @property
    def verdict(self) -> Sequence[str]:
        """Whether the model forecasts better than the steps seen."""
        found = without_error_over_data(len(self.score))
        if found:
            return found
        apart = self.quantities["difference"]
        if not math.isfinite(apart.mean):
            return ["Forecast and data cannot be compared: some draws are not finite."]
        if abs(apart.mean) <= 2 * apart.error_over_data:
            return ["The model forecasts as well as the steps seen, within two errors over data."]
        words = ("better", "lower") if apart.mean < 0 else ("worse", "higher")
        return [
            f"The model forecasts {words[0]} than the steps seen do: its CRPS is "
            f"{abs(apart.mean):.3g} {words[1]}."
        ]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The score of each step ahead, [N, H]."""
        return {"CRPS by step": self.score, "CRPS of the steps seen by step": self.past}


def _over_sequences(value: Tensor) -> Estimate:
    mean = value.mean(1)
    return Estimate(mean, torch.full_like(mean, math.nan))  # one run has no error over seeds
