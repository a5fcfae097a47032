"""A KL weight scales latent sites in what is trained; `test_handlers` has it beside others."""

import pytest
import torch
from pyro import infer, poutine
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.objectives.handlers import kl_weight


@pytest.mark.parametrize("objective", [infer.Trace_ELBO(), infer.TraceMeanField_ELBO()])
@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_the_loss_is_distortion_plus_beta_times_rate(objective, beta):
    def weighted_loss(beta):
        torch.manual_seed(1)
        world = LinearGaussian()
        x, vae = world.sample(4), world.vae()
        return objective.loss(kl_weight(beta)(vae.model), kl_weight(beta)(vae.guide), x)

    distortion, elbo = weighted_loss(0.0), weighted_loss(1.0)
    wanted = distortion + beta * (elbo - distortion)
    assert weighted_loss(beta) == pytest.approx(wanted, rel=1e-12)


def test_the_rate_that_is_weighed_is_the_closed_form():
    world = LinearGaussian()
    objective = infer.TraceMeanField_ELBO()
    x, vae = world.sample(4), world.vae()
    losses = []
    for beta in (0.0, 1.0):
        torch.manual_seed(1)
        losses.append(objective.loss(*kl_weight(beta).wrap(vae.model, vae.guide), x))
    rate = pv.analytic_kl(vae, x).sum().item()
    assert losses[1] - losses[0] == pytest.approx(rate, rel=1e-12)


def test_only_latent_sites_are_scaled_and_nested_weights_multiply():
    world = LinearGaussian()
    x, vae = world.sample(4), world.vae()
    trace = poutine.trace(kl_weight(0.5)(kl_weight(0.5)(vae.model))).get_trace(x)
    assert float(trace.nodes["z"]["scale"]) == 0.25
    assert float(trace.nodes["x"]["scale"]) == 1.0
    trace = poutine.trace(kl_weight(0.5)(poutine.scale(vae.model, 3.0))).get_trace(x)
    assert float(trace.nodes["z"]["scale"]) == 1.5
    assert float(trace.nodes["x"]["scale"]) == 3.0
