"""Filters that integrate the linear part out, held against exact evidence."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pushed_states import bootstrap, bootstrap_of_both, evidence, integrated, sampled
from state_space import A, C, Q, R, log_evidence, masked, predictive, sequences
from torch import nn
from torch.nn.functional import pad

import pyrovae as pv
from pyrovae.distributions import LinearStates, LinearStep, MarkovChain
from pyrovae.nets import MLP, BackwardGRU, unconstrained
from pyrovae.weights.filtering import StateSpace, filter_particles

MASK = masked(6, 3, 1)


def seeing_nothing():
    """Return a VAE of the linear world, beside latents without influence that the guide knows."""
    net = nn.Linear(1, 3, bias=False).double()
    likelihood = pv.likelihoods.LinearStates(net, states=2, width=3, varying=["offset"]).double()
    with torch.no_grad():
        net.weight.zero_()
        likelihood.constants["transition"].copy_(A)
        likelihood.constants["drift_scale"].copy_(unconstrained(Q))
        likelihood.constants["emission"].copy_(C)
        likelihood.constants["scale"].fill_(unconstrained(torch.tensor(R, dtype=A.dtype)))
    prior = pv.priors.Markov(MLP(1, 2), 1).double()
    return pv.VAE(prior, likelihood, lambda x, *context: prior(*context))


def test_latents_without_influence_leave_kalmans_evidence():
    vae, x = seeing_nothing(), sequences(MASK)
    truth = log_evidence(x, MASK)
    log_w = pv.log_weights(vae, x, MASK, particles=3)
    torch.testing.assert_close(log_w, truth.expand(3, -1), rtol=1e-9, atol=1e-9)
    with pv.seeded(0), torch.no_grad():
        found = filter_particles(StateSpace.of(vae.model, vae.guide, x, MASK), 5)
    torch.testing.assert_close(found.log_z, truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.size[~found.size.isnan()], torch.full((10,), 5.0).to(x))


def test_forecasts_are_kalmans():
    vae, x = seeing_nothing(), sequences(MASK)
    with pv.seeded(0):
        draws = pv.forecast(vae, x, MASK, steps=3, draws=8_000, particles=10)
    for n, length in enumerate(MASK.sum(1)):
        mean, variance = predictive(x[n, :length], 3)
        assert ((draws[:, n].mean(0) - mean).abs() < 4 * (variance / 8_000).sqrt()).all()
        assert ((draws[:, n].var(0) / variance - 1).abs() < 5 * (2 / 8_000) ** 0.5).all()


def test_what_is_known_of_a_state_is_not_left_out_of_an_imputation():
    """Given the latents, a missing step still depends on those that are observed."""
    x, seen = sequences(MASK), MASK.unsqueeze(-1).expand(-1, -1, 3)

    def model(x, seen):
        return integrated(x, seen.all(-1))

    def guide(x, seen):
        return bootstrap(x, seen.all(-1))

    with pytest.raises(ValueError, match=r"those of a LinearStates are not: pyrovae\.forecast"):
        pv.impute((model, guide), x, seen, particles=5)


def test_the_filter_is_unbiased_and_varies_less_than_one_that_samples_the_states():
    number, mask = 3_000, masked(8)
    with pv.seeded(1):
        x = integrated(None, mask)
    truth = evidence(x[0])
    many, masks = x.expand(number, -1, -1), mask.expand(number, -1)
    variances = []
    for pair in ((integrated, bootstrap), (sampled, bootstrap_of_both)):
        with pv.seeded(0), torch.no_grad():
            ratio = (filter_particles(StateSpace.of(*pair, many, masks), 20).log_z - truth).exp()
        error = ratio.std().item() / number**0.5
        assert error < 0.05
        assert abs(ratio.mean().item() - 1) < 4 * error
        variances.append(ratio.log().var().item())
    assert variances[0] < 0.5 * variances[1]


def test_padding_moves_nothing():
    longer = pad(MASK, (0, 2))
    with pv.seeded(3):
        x = integrated(None, MASK)
    padded = torch.where(longer.unsqueeze(-1), pad(x, (0, 0, 0, 2)), 1e6)
    found = []
    for args in ((x, MASK), (padded, longer)):
        with pv.seeded(0), torch.no_grad():
            found.append(filter_particles(StateSpace.of(integrated, bootstrap, *args), 7))
    own, other = found
    torch.testing.assert_close(own.log_z, other.log_z, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(own.belief, other.belief, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def switching(before, inputs=None):
    return dist.Bernoulli(probs=0.2 + 0.6 * before).to_event(1)


def switched(z):
    """One state that persists or turns over."""
    one = torch.ones(1).to(z)
    return LinearStep(
        (0.9 - 1.8 * z).unsqueeze(-1), 0 * one, one, one[:, None], 0 * one, 0.5 * one
    )


def switches(x, mask):
    with pyro.plate("data", len(mask)):
        z = pyro.sample("z", MarkovChain(switching, torch.zeros(1).to(A), mask))
        return pyro.sample("x", LinearStates(switched, z, mask, first=torch.ones(1).to(A)), obs=x)


def guessed(x, mask):
    with pyro.plate("data", len(mask)):
        return pyro.sample("z", MarkovChain(switching, torch.zeros(1).to(A), mask))


def test_a_world_that_switches_is_summed_over_all_paths():
    """The estimate is unbiased for the sum over 2^T paths of p(path) by Kalman."""
    length, number = 4, 4_000
    x = torch.tensor([0.8, -1.1, 0.9, 1.0], dtype=torch.float64).reshape(1, length, 1)
    total = 0.0
    for path in itertools.product((0.0, 1.0), repeat=length):
        before, mean, spread, score = 0.0, 1.0, 0.0, 0.0
        for each, now in zip(x.flatten().tolist(), path, strict=True):
            one = 0.2 + 0.6 * before
            move = -0.9 if now else 0.9
            mean, spread = move * mean, move**2 * spread + 1
            of_x = spread + 0.25
            score += math.log(one if now else 1 - one) - 0.5 * (
                math.log(2 * math.pi * of_x) + (each - mean) ** 2 / of_x
            )
            mean, spread = mean + spread / of_x * (each - mean), spread - spread**2 / of_x
            before = now
        total += math.exp(score)
    args = x.expand(number, -1, -1), masked(length).expand(number, -1)
    with pv.seeded(0), torch.no_grad():
        space = StateSpace.of(switches, guessed, *args)
        ratio = filter_particles(space, 8).log_z.exp() / total
    error = ratio.std().item() / number**0.5
    assert error < 0.01
    assert abs(ratio.mean().item() - 1) < 4 * error


def trained(objective, *, length, epochs, compile=False):
    """Train a small VAE on walks that follow each other, and return its history."""
    torch.manual_seed(0)
    likelihood = pv.likelihoods.LinearStates(
        MLP(2, 8, 4 + 3), states=2, width=3, varying=["transition", "offset"]
    )
    vae = pv.VAE(
        pv.priors.Markov(MLP(2, 8, 2 * 2), 2),
        likelihood,
        pv.guides.Combiner(BackwardGRU(3, 8), MLP(2 + 8, 8, 2 * 2), 2),
    )
    x, mask = torch.randn(40, length, 3).cumsum(1), masked(*[length, length, 1, length] * 10)
    step = pv.Step(pv.Optim(torch.optim.Adam, lr=3e-2), loss=objective, compile=compile)
    return pv.fit(vae, (x, mask), epochs=epochs, batch_size=20, seed=0, step=step, callbacks=[])


def test_training_raises_the_filtering_bound():
    loss = trained(pv.objectives.FIVO(4), length=3, epochs=10).column("loss")
    assert loss[-1] < loss[0] - 1


def test_a_recorded_step_trains_as_an_eager_one(interpreted):
    own, other = (
        trained(pv.objectives.FIVO(3), length=2, epochs=3, compile=way).column("loss")
        for way in (False, True)
    )
    assert other == pytest.approx(own, rel=1e-5)
