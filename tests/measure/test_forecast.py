"""Forecasts, held against Kalman's predictive distribution and scores in closed form."""

import math

import pyro
import pytest
import torch
from state_space import (
    ZERO,
    masked,
    model,
    observed,
    poor_guide,
    predictive,
    sequences,
    transition,
)

import pyrovae as pv
from pyrovae.distributions import EachStep, MarkovChain
from pyrovae.measure.forecast import ForecastFinding, crps

MASK = masked(6, 3, 6)


def test_forecasts_are_draws_of_kalmans_predictive_distribution():
    x = sequences(MASK)
    with pv.seeded(0):
        draws = pv.forecast((model, poor_guide), x, MASK, steps=4, draws=20_000, particles=20_000)
    assert draws.shape == (20_000, 3, 4, 3)
    for n, length in enumerate(MASK.sum(1)):
        mean, variance = predictive(x[n, :length], 4)
        # Particles are weighted, drawn, and moved: no fewer than 4,000 of 20,000 are effective.
        error = (variance / 4_000).sqrt()
        assert ((draws[:, n].mean(0) - mean).abs() < 4 * error).all()
        assert ((draws[:, n].var(0) / variance - 1).abs() < 5 * (2 / 4_000) ** 0.5).all()


def test_padding_moves_no_forecast():
    x, wider = sequences(MASK), torch.nn.functional.pad(MASK, (0, 2))
    padded = torch.full((3, 8, 3), 1e6, dtype=x.dtype)
    padded[:, :6] = torch.where(MASK.unsqueeze(-1), x, 1e6)
    for sequence, mask in ((x, MASK), (padded, wider)):
        with pv.seeded(0):
            found = pv.forecast(
                (model, poor_guide), sequence, mask, steps=2, draws=4_000, particles=4_000
            )
        mean, variance = predictive(x[1, :3], 2)
        assert ((found[:, 1].mean(0) - mean).abs() < 5 * (variance / 800).sqrt()).all()


def test_the_score_of_a_normal_is_its_closed_form():
    """Gneiting and Raftery (2007), equation 21."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0.0, 0.7, -2.0], dtype=torch.float64)
    standard = torch.distributions.Normal(0.0, 1.0)
    density = standard.log_prob(y).exp()
    truth = y * (2 * standard.cdf(y) - 1) + 2 * density - 1 / math.sqrt(math.pi)
    torch.testing.assert_close(crps(draws, y), truth, rtol=0, atol=5 / math.sqrt(200_000))


def test_the_score_is_the_sum_over_all_pairs_and_unbiased():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.float64)
    pairs = (draws[:, None] - draws[None]).abs().sum((0, 1)) / (7 * 6)
    torch.testing.assert_close(crps(draws, y), draws.abs().mean(0) - pairs / 2)
    two = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    scores = crps(two, torch.zeros(100_000, dtype=torch.float64))
    truth = 2 / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)
    assert abs(scores.mean().item() - truth) < 4 * scores.std().item() / 100_000**0.5
    bits = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    # The Brier score (p - y)^2, less the bias of p's variance, p (1 - p) / (S - 1).
    assert crps(bits, torch.ones(1)).item() == pytest.approx(0.0625 - 0.1875 / 3)


def test_held_steps_are_scored_as_kalman_would():
    mask = masked(*([8] * 60), *([3] * 5), 2)
    x = sequences(mask, seed=3)
    with pv.seeded(0):
        found = pv.Forecast(steps=2, draws=400, particles=400)((model, poor_guide), x, mask)
    assert found.score.shape == (65, 2)
    truth = []
    for each, length in zip(x[:65], mask[:65].sum(1), strict=True):
        mean, variance = predictive(each[: length - 2], 2)
        y = (each[length - 2 : length] - mean) / variance.sqrt()
        standard = torch.distributions.Normal(0.0, 1.0)
        score = y * (2 * standard.cdf(y) - 1) + 2 * standard.log_prob(y).exp() - math.pi**-0.5
        truth.append((variance.sqrt() * score).mean(1))
    apart = found.score - torch.stack(truth)
    assert abs(apart.mean().item()) < 0.01
    assert apart.std().item() < 0.05
    held = found.quantities["90 % interval holds"]
    assert abs(held.mean - 0.9) < 4 * held.error_over_data
    assert found.quantities["difference"].mean < 0
    assert math.isnan(found.quantities["CRPS"].error_over_particles)
    assert "better" in " ".join(found.verdict)


@pytest.mark.parametrize("draws", [19, 40])
def test_the_interval_holds_nine_in_ten_whatever_the_number_of_draws(draws):
    mask = masked(*([6] * 400))
    x = sequences(mask, seed=7)
    with pv.seeded(1):
        found = pv.Forecast(steps=1, draws=draws, particles=300)((model, poor_guide), x, mask)
    held = found.quantities["90 % interval holds"]
    assert held.error_over_data < 0.015
    assert abs(held.mean - 0.9) < 3 * held.error_over_data


def test_an_interval_that_holds_all_values_is_not_certain_to_hold_the_next():
    """After 10 sequences without a failure, the share of failures is below 0.15 at 80%."""
    score = torch.rand(10, 2)
    found = ForecastFinding(pv.Forecast(steps=2), score, score, torch.ones(10, 2), wanted=10)
    error = found.quantities["90 % interval holds"].error_over_data
    assert 1 - 0.2**0.1 < 1.96 * error < 0.4
    alone = ForecastFinding(found.settings, score[:1], score[:1], torch.ones(1, 2), wanted=1)
    assert math.isnan(alone.quantities["90 % interval holds"].error_over_data)


def test_draws_that_are_not_finite_are_not_said_to_forecast_worse():
    score = torch.rand(10, 2)
    endless = score.masked_fill(score == score[0, 0], math.nan)
    found = ForecastFinding(pv.Forecast(steps=2), endless, score, score, wanted=10)
    assert found.verdict == ["Forecast and data cannot be compared: some draws are not finite."]


class Clocked(MarkovChain):
    """A chain that may know the number of its step."""

    def __init__(self, *args):
        super().__init__(*args)
        del self.inputs

    def expand(self, batch_shape, _instance=None):
        mask = self.mask.expand(*batch_shape, -1)
        return Clocked(self.transition, self.first, mask)

    def step(self, t, before):
        return transition(before)


def test_a_chain_with_a_clock_goes_on_from_one_length_only():
    def clocked(x, mask):
        with pyro.plate("data", len(mask)):
            z = pyro.sample("z", Clocked(transition, ZERO, mask))
            return pyro.sample("x", EachStep(observed, z, mask), obs=x)

    x = sequences(MASK)
    with pytest.raises(ValueError, match="Clocked may depend on the number of the step"):
        pv.forecast((clocked, poor_guide), x, MASK, steps=2)
    whole = torch.ones_like(MASK)
    assert pv.forecast((clocked, poor_guide), x, whole, steps=2, draws=3).shape == (3, 3, 2, 3)


def test_what_cannot_be_forecast_is_refused():
    x = sequences(MASK)
    with pytest.raises(ValueError, match="no sequence is longer than the 6 steps"):
        pv.Forecast(steps=6)((model, poor_guide), x, MASK)
    with pytest.raises(ValueError, match="19 draws; got {'draws': 18}"):
        pv.Forecast(steps=1, draws=18)
    for mask in (MASK.T, MASK.flip(1), MASK[:1]):
        with pytest.raises(ValueError, match=r"the mask of sequences|padding at their ends"):
            pv.Forecast(steps=1)((model, poor_guide), x, mask)
    with pytest.raises(ValueError, match="'steps': 0"):
        pv.forecast((model, poor_guide), x, MASK, steps=0)
    with pytest.raises(ValueError, match="mask of the steps"):
        pv.Forecast(steps=1)((model, poor_guide), x)
    with pytest.raises(ValueError, match=r"expected two or more draws .* got \(1, 2\)"):
        crps(torch.zeros(1, 2), torch.zeros(2))
