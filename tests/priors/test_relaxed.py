"""Relaxed classes: the Concrete density, what its bound is a bound of, and its temperature."""

import math

import pytest
import torch
from classes import FALSE_ALARM, learned, site_of
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import distributions as td
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.distributions.concrete import LogConcrete
from pyrovae.nets import MLP
from pyrovae.weights.bounds import mean_estimate
from pyrovae.weights.log_weights import log_weight_terms, log_weights

TEMPERATURES = pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])


def log_concrete(logits, temperature):
    return LogConcrete(torch.tensor(temperature, dtype=torch.float64), logits=logits)


@TEMPERATURES
@pytest.mark.parametrize("classes", [2, 3])
def test_a_relaxed_class_integrates_to_one(temperature, classes):
    """In u = (log y_c - log y_C) over c < C, dy is the product of all y_c times du."""
    fn = log_concrete(random(3, classes), temperature)
    # The tails fall as exp(-T |u|): 1e-9 is left beyond. The integrand is analytic, so the
    # trapezoidal rule converges faster than any power of the step.
    reach = 8.0 + 22.0 / temperature
    u = torch.linspace(-reach, reach, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(*[u] * (classes - 1)).reshape(-1, classes - 1)
    log_y = torch.cat([grid, torch.zeros(len(grid), 1).double()], -1).log_softmax(-1)
    total = fn.log_prob(log_y).exp().sum() * (u[1] - u[0]) ** (classes - 1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@TEMPERATURES
def test_the_density_of_prior_and_guide_is_the_published_one(temperature):
    logits, y = random(3, 4), random(4, 50, 4).softmax(-1)
    prior = priors.RelaxedOneHot(4, temperature=temperature, learned=True).double()
    prior.logits.data = logits
    guide = guides.RelaxedOneHot(nn.Identity(), temperature=temperature).double()
    pi, t = logits.softmax(-1), prior.temperature
    ratios = pi * y ** (-t - 1) / (pi * y**-t).sum(-1, keepdim=True)
    published = math.factorial(3) * t**3 * ratios.prod(-1)
    for fn in (site_of(prior)[0], guide.distribution(logits)):
        torch.testing.assert_close(fn.log_prob(y.log()) - y.log().sum(-1), published.log())


@TEMPERATURES
def test_relaxed_draws_are_as_dense_as_it_says(temperature):
    """With two classes, u = log y_1 - log y_2 is (h_1 - h_2 + a logistic number) / T."""
    prior = learned(priors.RelaxedOneHot(2, temperature=temperature, learned=True))
    fn, log_y, y = site_of(prior, 20_000)
    torch.testing.assert_close(y, log_y.exp())
    u = log_y[:, 0] - log_y[:, 1]
    edges = torch.linspace(-3, 3, 13).double() / temperature
    step = (edges[1] - edges[0]) / 200
    fine = edges[0] + step * (torch.arange(200 * 12) + 0.5)
    log_fine = torch.stack([fine, torch.zeros_like(fine)], -1).log_softmax(-1)
    one, _, _ = site_of(prior)
    inside = one.log_prob(log_fine).exp().detach().reshape(12, 200).sum(-1) * step
    counts = torch.histogram(u.detach(), edges).hist
    observed = [*counts.tolist(), len(u) - float(counts.sum())]
    expected = [*(len(u) * inside).tolist(), len(u) * (1 - float(inside.sum()))]
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_weights_stay_finite_and_right_where_a_relaxed_class_rounds_to_zero():
    logits, temperature = torch.tensor([3.0, -2.0, 0.5]), torch.tensor(0.02)
    q, p = (LogConcrete(temperature, logits=h) for h in (logits, torch.zeros(3)))
    log_y = q.rsample((1000,))
    assert (log_y.exp() == 0).any(), "no draw rounds to zero"
    wide = [LogConcrete(temperature.double(), logits=fn.logits.double()) for fn in (q, p)]
    wanted = wide[0].log_prob(log_y.double()) - wide[1].log_prob(log_y.double())
    # The terms of the ratio are below 100 nats: a hundred roundings of float32 are 1e-3.
    found = q.log_prob(log_y) - p.log_prob(log_y)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-3)
    # On the simplex itself the logarithm of a zero spoils the ratio.
    q, p = (
        td.RelaxedOneHotCategorical(temperature, logits=h, validate_args=False)
        for h in (logits, torch.zeros(3))
    )
    assert not (q.log_prob(log_y.exp()) - p.log_prob(log_y.exp())).isfinite().all()


def relaxed_world(temperature=0.5):
    """Return a VAE of two relaxed classes in one dimension, and its centers."""
    torch.manual_seed(2)
    prior = priors.RelaxedOneHot(2, temperature=temperature)
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[-1.5, 1.5]])
    guide = guides.RelaxedOneHot(MLP(1, 2), temperature=0.8)
    return pv.VAE(prior, pv.likelihoods.Normal(net, scale=0.5), guide).double()


def relaxed_log_evidence(x, temperature=0.5):
    """Integrate over the simplex: u = log y_1 - log y_2 is logistic, divided by T."""
    u = torch.linspace(-60, 60, 20001).double() / temperature
    step = u[1] - u[0]
    density = temperature * torch.sigmoid(temperature * u) * torch.sigmoid(-temperature * u)
    loc = 1.5 * (torch.sigmoid(-u) - torch.sigmoid(u))
    log_x = td.Normal(loc, 0.5).log_prob(x)
    return (log_x + density.log()).logsumexp(-1) + step.log()


def discrete_log_evidence(x):
    log_x = td.Normal(torch.tensor([-1.5, 1.5]).double(), 0.5).log_prob(x)
    return log_x.logsumexp(-1) - math.log(2)


X = torch.tensor([[-1.6], [0.0], [0.4], [2.0]]).double()


def test_the_mean_weight_of_a_relaxed_model_is_the_integral_over_the_simplex():
    vae = relaxed_world()
    with torch.no_grad():
        log_w = log_weights(vae, X, particles=20_000)
    ratio = mean_estimate((log_w - relaxed_log_evidence(X)).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()


def test_the_relaxed_evidence_is_no_bound_on_the_discrete_one_which_is_measured_by_summing():
    vae = relaxed_world()
    gap = relaxed_log_evidence(X) - discrete_log_evidence(X)
    assert gap.min() < -0.1
    assert gap.max() > 0.1
    summed = pv.VAE(priors.OneHot(2).double(), vae.likelihood, guides.OneHot(vae.posterior.net))
    log_w = log_weights(summed, X, particles=1)
    torch.testing.assert_close(log_w[0], discrete_log_evidence(X), rtol=0, atol=1e-9)


def test_relaxed_draws_carry_the_gradient_of_the_bound():
    vae = relaxed_world()
    terms = log_weight_terms(vae, X, particles=2)
    weight = vae.posterior.net.layers[0].weight
    parts = [terms.likelihood["x"], terms.prior["z"], terms.guide["z"]]
    assert all(
        (torch.autograd.grad(t.sum(), weight, retain_graph=True)[0] != 0).any() for t in parts
    )
    # The same draws at weights a little aside: a central difference.
    values = []
    for change in (1e-5, -1e-5):
        moved = relaxed_world()
        moved.posterior.net.layers[0].weight.data[0, 0] += change
        torch.manual_seed(7)
        values.append(log_weights(moved, X, particles=2).sum().detach())
    torch.manual_seed(7)
    (found,) = torch.autograd.grad(log_weights(vae, X, particles=2).sum(), weight)
    torch.testing.assert_close((values[0] - values[1]) / 2e-5, found[0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("interpreted")
def test_a_recorded_step_sees_the_temperature_change():
    losses = {}
    for compile in (False, True):
        vae = relaxed_world()
        optim = torch.optim.SGD(vae.parameters(), 0.01)
        svi = pv.SVI(vae.model, vae.guide, optim, Trace_ELBO(), compile=compile)
        found = []
        for step, temperature in enumerate([0.5, 0.5, 0.1, 3.0]):
            vae.prior.anneal(temperature)
            vae.posterior.anneal(2 * temperature)
            torch.manual_seed(step)
            found.append(svi.step(X))
        assert svi.compiled is compile
        losses[compile] = found
    assert losses[True] == pytest.approx(losses[False], rel=1e-9)


def test_annealing_keeps_the_tensor_and_is_saved_with_the_state():
    for part in (
        priors.RelaxedOneHot(3, temperature=1.0),
        guides.RelaxedOneHot(MLP(2, 3), temperature=1.0),
    ):
        held = part.temperature
        memory = held.data_ptr()
        part.anneal(0.25)
        assert part.temperature is held
        assert held.data_ptr() == memory
        assert float(part.state_dict()["temperature"]) == 0.25
        for temperature in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"positive and finite; got {temperature}"):
                part.anneal(temperature)
        assert float(held) == 0.25


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing_moves_on_the_simplex(start):
    """The density is one over C - 1 log-ratios. Chains in C numbers would leave the simplex."""
    with pv.seeded(0):
        found = pv.AIS(20, particles=64, start=start, leapfrogs=2)(relaxed_world(), X).lower
    exact = relaxed_log_evidence(X)
    # The mean of the weights is unbiased, and its logarithm short by half their variance.
    short = (exact - found.value).mean()
    assert abs(short) < 5 * found.error_over_particles + 0.02


def test_a_flow_refines_a_relaxed_class_toward_its_log_evidence():
    vae, exact = relaxed_world(), relaxed_log_evidence(X).mean()
    with pv.seeded(0):
        refined = pv.refine(vae, X, steps=200, family=pv.PerDatumFlow())
        elbos = [
            mean_estimate(log_weights(pair, X, particles=2000)).mean
            for pair in (vae, (vae.model, refined))
        ]
    assert elbos[0] < exact - 0.5
    assert exact - 0.2 < elbos[1] < exact + 0.01
