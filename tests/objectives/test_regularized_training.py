"""Gradients of the objectives on the aggregate posterior, and trainings that follow them."""

import math

import pyro
import pytest
import torch
from aggregates import (
    OBJECTIVES,
    Aggregate,
    CorrelatedData,
    Quadratic,
    seeded_gradients,
    seeded_loss,
    trained,
)
from pyro import poutine
from torch import nn

import pyrovae as pv
from pyrovae.objectives.regularized import FactorVAE


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES.keys())
def objective(request):
    return request.param()


def finite_difference(function, parameters, direction, step=1e-5):
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(sign * step * d)
            values.append(function())
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.sub_(sign * step * d)
    return (values[0] - values[1]) / (2 * step)


def assert_gradient_is_a_finite_difference(grads, parameters, function):
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum().item() for g, d in zip(grads, direction, strict=True))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx(finite_difference(function, parameters, direction), rel=1e-6)


def test_the_gradient_of_the_vae_is_a_finite_difference_of_the_loss(objective):
    vae, x = trained()
    parameters = list(vae.parameters())
    grads = seeded_gradients(objective, vae.model, vae.guide, x, parameters)
    assert_gradient_is_a_finite_difference(
        grads, parameters, lambda: seeded_loss(objective, vae.model, vae.guide, x)
    )


def test_the_gradient_of_the_discriminator_is_that_of_its_own_loss():
    vae, x = trained()
    objective = FactorVAE(3.0, Quadratic())
    parameters = list(objective.discriminator.parameters())
    grads = seeded_gradients(objective, vae.model, vae.guide, x, parameters)

    def own_loss():
        torch.manual_seed(7)
        trace = poutine.trace(vae.guide).get_trace(x)
        return objective.discriminator_loss(trace.nodes["z"]["value"]).item()

    assert_gradient_is_a_finite_difference(grads, parameters, own_loss)


def trained_total_correlation(gamma):
    world, objective = CorrelatedData(), FactorVAE(gamma, Quadratic())

    def adam(parameters):
        return torch.optim.Adam(objective.groups(parameters, lr=0.05), lr=0.01)

    svi = pv.SVI(*world.programs, pv.OneOptimizer(adam), objective, compile=False)
    for _ in range(200):
        svi.step(world.sample(100))
    return Aggregate(world).parts[1].item()


def test_training_it_on_a_correlated_posterior_lowers_the_total_correlation():
    without = trained_total_correlation(0.0)
    assert without > 0.05
    assert trained_total_correlation(20.0) < 0.2 * without


def five_steps(kind, make):
    torch.manual_seed(0)
    objective = make()
    vae, x = trained()
    svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), objective)
    torch.manual_seed(1)
    losses = [svi.step(x) for _ in range(5)]
    modules = [vae, getattr(objective, "discriminator", nn.Module())]
    return svi, losses, [p.detach() for module in modules for p in module.parameters()]


def assert_steps_are_pyros(make):
    svi, losses, values = five_steps(pv.SVI, make)
    _, wanted_losses, wanted_values = five_steps(pyro.infer.SVI, make)
    assert svi.compiled
    assert losses == pytest.approx(wanted_losses, rel=1e-9)
    for value, wanted in zip(values, wanted_values, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_recorded_steps_are_those_of_pyros_svi(name):
    assert_steps_are_pyros(OBJECTIVES[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["stratified", "DIP of the aggregate", "Gaussian MMD", "FactorVAE"]
)
def test_compiled_steps_are_those_of_pyros_svi(name):
    assert_steps_are_pyros(OBJECTIVES[name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_fit_descends_it_and_measures_the_elbo_apart(name):
    vae, x = trained()
    step = pv.Step(loss=OBJECTIVES[name](), kl_weight=0.5)
    history = pv.fit(vae, x, epochs=2, batch_size=4, step=step, callbacks=[])
    assert history.ended == "all epochs done"
    for epoch in history.epochs:
        assert epoch.elbo == pytest.approx(-epoch.rate - epoch.distortion)
        assert math.isfinite(epoch.loss)
        assert epoch.loss != pytest.approx(epoch.distortion + 0.5 * epoch.rate, rel=1e-3)


@pytest.mark.parametrize(("rate", "own_rate"), [(0.01, 0.0), (0.0, 0.01)])
def test_fit_trains_the_discriminator_at_its_own_rate(rate, own_rate):
    vae, x = trained()
    objective = FactorVAE(3.0, Quadratic())

    def adam(parameters):
        return torch.optim.Adam(objective.groups(parameters, lr=own_rate), lr=rate)

    def values(module):
        return torch.cat([p.detach().flatten().clone() for p in module.parameters()])

    before = values(vae), values(objective.discriminator)
    step = pv.Step(loss=objective, optim=pv.OneOptimizer(adam))
    pv.fit(vae, x, epochs=2, batch_size=4, step=step, callbacks=[])
    assert torch.equal(values(vae), before[0]) == (rate == 0)
    assert torch.equal(values(objective.discriminator), before[1]) == (own_rate == 0)


def test_a_frozen_discriminator_stays():
    vae, x = trained()
    objective = FactorVAE(3.0, Quadratic())
    objective.discriminator.requires_grad_(requires_grad=False)
    before = objective.discriminator.out.weight.clone()
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), objective).step(x)
    assert torch.equal(objective.discriminator.out.weight, before)
