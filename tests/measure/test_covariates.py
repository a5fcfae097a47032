"""Covariates of steps and of sequences, held against Kalman's evidence with controls."""

import pytest
import torch
from state_space import (
    A,
    B,
    C,
    D,
    Q,
    R,
    controlled,
    exact_chain,
    log_evidence,
    masked,
    poor_chain,
    predictive,
    response,
    sequences,
)
from torch import nn
from torch.nn.functional import pad

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU, unconstrained
from pyrovae.weights.filtering import StateSpace, filter_particles

MASK = masked(6, 3, 1)


class Linear(nn.Module):
    """A linear map of z and c joined as torch joins them, with raw scales after it."""

    def __init__(self, of_z, of_c, raw):
        super().__init__()
        self.of_z, self.of_c, self.raw = (nn.Parameter(each) for each in (of_z, of_c, raw))

    def forward(self, z, c):
        mean = torch.cat([z, c], -1) @ torch.cat([self.of_z, self.of_c], 1).T
        return torch.cat([mean, self.raw.expand(*mean.shape[:-1], -1)], -1)


WORLD = pv.VAE(
    pv.priors.Markov(Linear(A, B, unconstrained(Q)), 2),
    pv.likelihoods.EachStep(
        pv.likelihoods.Normal(
            Linear(C, D, unconstrained(torch.full((3,), R, dtype=A.dtype))), scale="network"
        )
    ),
    controlled(exact_chain),
).double()
EXACT = (WORLD.model, controlled(exact_chain))
POOR = (WORLD.model, controlled(poor_chain))


def drawn(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return 2 * torch.randn(*shape, 1, generator=generator, dtype=torch.float64)


OF_STEPS = drawn(3, 6)
OF_SEQUENCES = drawn(3)


def by_step(c):
    return c if c.ndim == 3 else c.unsqueeze(1).expand(3, 6, 1)


def given(c):
    """Return sequences that respond to controls c."""
    return sequences(MASK) + response(by_step(c))[1]


@pytest.mark.parametrize("c", [OF_STEPS, OF_SEQUENCES], ids=["steps", "sequences"])
def test_with_covariates_the_exact_smoother_has_constant_weights(c):
    x = given(c)
    truth = log_evidence(x - response(by_step(c))[1], MASK)
    log_w = pv.log_weights(EXACT, x, c, MASK, particles=4)
    torch.testing.assert_close(log_w, truth.expand(4, -1), rtol=1e-9, atol=1e-9)
    with pv.seeded(0):
        found = filter_particles(StateSpace.of(*EXACT, x, c, MASK), 1)
    torch.testing.assert_close(found.log_z, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0, 3, 5])
def test_each_covariate_counts_to_the_last_digit(t):
    """One that is changed changes log p by what Kalman says, where the sequence has its step."""
    x, other = given(OF_STEPS), OF_STEPS.clone()
    other[:, t] += 1.5
    truth = log_evidence(x - response(other)[1], MASK)
    log_w = pv.log_weights(EXACT, x, other, MASK, particles=1)[0]
    torch.testing.assert_close(log_w, truth, rtol=1e-9, atol=1e-9)
    apart = (truth - log_evidence(sequences(MASK), MASK)).abs()
    assert ((apart > 1e-6) == MASK[:, t]).all()


def test_the_filter_with_covariates_is_unbiased():
    x, c = given(OF_STEPS)[:1], OF_STEPS[:1]
    many = [each.expand(8_000, -1, *each.shape[2:]) for each in (x, c, MASK[:1])]
    with pv.seeded(0), torch.no_grad():
        found = filter_particles(StateSpace.of(*POOR, *many), 20).log_z
    ratio = (found - log_evidence(x - response(c)[1], MASK[:1])).exp()
    error = ratio.std().item() / 8_000**0.5
    assert error < 0.03
    assert abs(ratio.mean().item() - 1) < 4 * error


def emission(kind):
    """Return a likelihood of one latent, a covariate of each step and two of the sequence."""
    if kind == "EachStep":
        return pv.likelihoods.EachStep(pv.likelihoods.Normal(MLP(1 + 3, 5, 3)))
    net = MLP(1 + 3, 5, 4)
    return pv.likelihoods.LinearStates(net, states=2, width=3, varying=["transition"])


@pytest.mark.parametrize("kind", ["EachStep", "LinearStates"])
def test_padding_moves_nothing_whatever_covariates_it_has(kind):
    torch.manual_seed(0)
    prior = pv.priors.Markov(MLP(1 + 3, 5, 2), 1)
    guide = pv.guides.Combiner(BackwardGRU(3 + 3, 4), MLP(1 + 4, 5, 2), 1)
    vae = pv.VAE(prior, emission(kind), guide).double()
    x, c, longer = given(OF_STEPS), OF_STEPS, pad(MASK, (0, 2))
    city = torch.randn(3, 2, dtype=x.dtype)
    filled = [torch.where(longer.unsqueeze(-1), pad(each, (0, 0, 0, 2)), 1e3) for each in (x, c)]
    found = []
    for args in ((x, c, city, MASK), (*filled, city, longer)):
        with pv.seeded(1):
            log_w = pv.log_weights(vae, *args, particles=3)
        with pv.seeded(1), torch.no_grad():
            space = StateSpace.of(vae.model, vae.guide, *args)
            found.append((log_w, filter_particles(space, 5).log_z))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
    held = pv.Forecast(steps=2, draws=19, particles=5)(vae, x, c, city, MASK)
    assert held.score.shape == (2, 2)
    with pytest.raises(ValueError, match="those of the steps ahead are missing"):
        pv.forecast(vae, x, c, city, MASK, steps=2)


def test_forecasts_use_the_covariates_of_the_steps_ahead_of_each_sequence():
    c, longer = drawn(3, 8), pad(MASK, (0, 2))
    x = torch.where(MASK.unsqueeze(-1), given(c[:, :6]), 0.0)
    with pv.seeded(0):
        args = (pad(x, (0, 0, 0, 2)), c, longer)
        draws = pv.forecast(POOR, *args, steps=2, draws=8_000, particles=8_000)
    for n, length in enumerate(MASK.sum(1)):
        mean, variance = predictive(x[n, :length], 2, c[n])
        # Particles are weighted, drawn, and moved: no fewer than 1,600 of 8,000 are effective.
        assert ((draws[:, n].mean(0) - mean).abs() < 4 * (variance / 1_600).sqrt()).all()
        assert ((draws[:, n].var(0) / variance - 1).abs() < 5 * (2 / 1_600) ** 0.5).all()


def test_forecasts_ask_for_the_covariates_ahead():
    x = given(OF_STEPS)
    with pytest.raises(ValueError, match=r"x has 6 steps, and a sequence of 6 .* by 2 more steps"):
        pv.forecast(POOR, x, OF_STEPS, MASK, steps=2)
    with pytest.raises(ValueError, match="those of the steps ahead are missing"):
        pv.forecast(POOR, x[:, :1], OF_STEPS[:, :1], MASK[:, :1], steps=1)
    of_sequences = (given(OF_SEQUENCES), OF_SEQUENCES, MASK)
    found = pv.forecast(EXACT, *of_sequences, steps=2, draws=3, particles=9)
    assert found.shape == (3, 3, 2, 3)


def test_held_steps_are_forecast_with_their_covariates():
    """Their controls are large: without them the forecast would be far off."""
    mask = masked(*([6] * 40))
    c = 10 * drawn(40, 6)
    x = sequences(mask) + response(c)[1]
    with pv.seeded(0):
        found = pv.Forecast(steps=2, draws=200, particles=200)(POOR, x, c, mask)
    own = found.quantities["CRPS"]
    # Of a normal with the scale s it is 0.56 s in the mean, and s is 1.5 at most.
    assert own.mean < 0.56 * 1.5
    assert found.quantities["CRPS of the steps seen"].mean > 5
