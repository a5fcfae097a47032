"""Objectives on the aggregate posterior, in worlds where it is a normal or a finite mixture."""

import math

import numpy as np
import pyro
import pytest
import torch
from aggregates import (
    LATENTS,
    OBJECTIVES,
    ROWS,
    Aggregate,
    CorrelatedData,
    Quadratic,
    seeded_gradients,
    seeded_loss,
    trained,
)
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import distributions as td
from torch import nn
from worlds import Hierarchy, LinearGaussian, data_plate

import pyrovae as pv
from pyrovae.objectives.aggregate import GaussianKernel, InverseMultiquadratic, mmd
from pyrovae.objectives.handlers import free_bits, kl_weight
from pyrovae.objectives.regularized import DIP, MMD, FactorVAE, TotalCorrelation
from pyrovae.weights.log_weights import log_weight_terms

NEUTRAL = {
    "stratified": lambda: TotalCorrelation(5 * ROWS, beta=1.0),
    "weighted": lambda: TotalCorrelation(5 * ROWS, beta=1.0, sampling="weighted"),
    "DIP": lambda: DIP(0.0, 0.0),
    "MMD": lambda: MMD(GaussianKernel(1.0), 0.0),
    "FactorVAE": lambda: FactorVAE(0.0, Quadratic()),
}


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES.keys())
def objective(request):
    return request.param()


@pytest.fixture(params=NEUTRAL.values(), ids=NEUTRAL.keys())
def neutral(request):
    return request.param()


def subsampled(vae, x, size):
    """Return programs of all the data x that draw a minibatch of a size."""

    def over(part):
        def program(data):
            with pyro.plate("data", len(data), subsample_size=size, dim=-1) as rows:
                part(data[rows])

        return program

    return over(lambda x: vae.likelihood(vae.prior(), x)), over(vae.posterior), x


def as_it_is(vae, x):
    return vae.model, vae.guide, x


def weighted_and_scaled(vae, x):
    weight = kl_weight(0.25)
    return *(poutine.scale(weight(p), scale=0.3) for p in (vae.model, vae.guide)), x


def with_free_bits(vae, x):
    return *free_bits(0.2).wrap(vae.model, vae.guide), x


def masked_data(vae, x):
    mask = torch.arange(ROWS) > 2

    def model(x):
        with data_plate(x):
            z = vae.prior()
            with poutine.mask(mask=mask):
                vae.likelihood(z, x)

    return model, vae.guide, x


PROGRAMS = {
    "as it is": as_it_is,
    "KL weight and scale": weighted_and_scaled,
    "free bits": with_free_bits,
    "subsampled": lambda vae, x: subsampled(vae, x, 4),
    "masked data": masked_data,
}


@pytest.mark.parametrize("wrapped", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_without_a_regularizer_it_is_pyros_elbo(neutral, wrapped):
    vae, x = trained()
    model, guide, x = wrapped(vae, x)
    wanted = seeded_loss(Trace_ELBO(), model, guide, x)
    assert seeded_loss(neutral, model, guide, x) == pytest.approx(wanted, rel=1e-12)


def test_without_a_regularizer_the_gradients_are_pyros(neutral):
    vae, x = trained()
    parameters = list(vae.parameters())
    found = seeded_gradients(neutral, vae.model, vae.guide, x, parameters)
    wanted = seeded_gradients(Trace_ELBO(), vae.model, vae.guide, x, parameters)
    for grad, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(grad, theirs, rtol=1e-10, atol=1e-12)


def test_the_regularizer_is_a_sum_over_data_times_the_scale(objective):
    vae, x = trained()
    plain = seeded_loss(objective, vae.model, vae.guide, x)
    scaled = (poutine.scale(program, scale=0.3) for program in (vae.model, vae.guide))
    assert seeded_loss(objective, *scaled, x) == pytest.approx(0.3 * plain, rel=1e-12)
    whole = seeded_loss(objective, vae.model, vae.guide, x, size=5 * ROWS)
    assert whole == pytest.approx(5 * plain, rel=1e-12)


def test_a_kl_weight_weighs_the_rate_and_its_parts_but_no_penalty(objective):
    vae, x = trained()
    losses = [
        seeded_loss(objective, *kl_weight(beta).wrap(vae.model, vae.guide), x)
        for beta in (0.0, 1.0, 3.0)
    ]
    elbo = [
        seeded_loss(Trace_ELBO(), *kl_weight(beta).wrap(vae.model, vae.guide), x)
        for beta in (0.0, 1.0)
    ]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-10)
    if isinstance(objective, TotalCorrelation):
        assert losses[0] == pytest.approx(elbo[0], rel=1e-12)
    else:
        assert losses[1] - losses[0] == pytest.approx(elbo[1] - elbo[0], rel=1e-10)
        assert losses[0] != pytest.approx(elbo[0], rel=1e-3)


def test_the_three_ways_to_ask_agree(objective):
    vae, x = trained()
    value = seeded_loss(objective, vae.model, vae.guide, x)
    assert isinstance(value, float)
    parameters = list(vae.parameters())
    grads = seeded_gradients(objective, vae.model, vae.guide, x, parameters)
    torch.manual_seed(7)
    loss = objective(vae.model, vae.guide)(x)
    assert loss.item() == value
    torch.manual_seed(7)
    assert objective.loss_and_grads(vae.model, vae.guide, x) == value
    vae.zero_grad()
    loss.backward()
    for grad, parameter in zip(grads, parameters, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0)


def on_mixture(world, x, z):
    """Return the parts of the rate at draws z, where q(z) is the mixture over all of x, exact."""
    loc, scale = world.posterior_mean(x) + world.shift, world.off_scale.expand(len(x), -1)
    uniform = td.Categorical(torch.ones(len(x), dtype=torch.float64))
    normals = td.Independent(td.Normal(loc, scale), 1)
    joint = td.MixtureSameFamily(uniform, normals).log_prob(z)
    product = sum(
        td.MixtureSameFamily(uniform, td.Normal(loc[:, j], scale[:, j])).log_prob(z[:, j])
        for j in range(z.shape[1])
    )
    own, prior = normals.log_prob(z), td.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1)
    return own - joint, joint - product, product - prior


def test_with_all_the_data_the_loss_has_the_exact_parts():
    world = LinearGaussian()
    x, weights = world.sample(ROWS), (0.5, 6.0, 2.0)
    alpha, beta, gamma = weights
    objective = TotalCorrelation(ROWS, alpha=alpha, beta=beta, gamma=gamma)
    found = seeded_loss(objective, world.model, world.off_guide, x)
    torch.manual_seed(7)
    z = poutine.trace(world.off_guide).get_trace(x).nodes["z"]["value"]
    parts = on_mixture(world, x, z)
    likelihood = td.Normal(z @ world.weight.T + world.mean, world.noise).log_prob(x).sum()
    wanted = sum(w * part.sum() for w, part in zip(weights, parts, strict=True)) - likelihood
    assert found == pytest.approx(wanted.item(), rel=1e-12)


def test_the_parts_add_up_to_the_rate_that_log_weights_measure():
    world = LinearGaussian()
    x = world.sample(2000)
    torch.manual_seed(7)
    parts = TotalCorrelation(10_000, beta=1.0).decomposition(world.model, world.off_guide, x)
    torch.manual_seed(7)
    rate = log_weight_terms((world.model, world.off_guide), x, particles=1).rate[0]
    torch.testing.assert_close(parts.rate, rate, rtol=1e-12, atol=1e-10)
    exact = pv.analytic_kl((world.model, world.off_guide), x)
    error = (parts.rate - exact).std().item() / math.sqrt(len(x))
    assert abs((parts.rate - exact).mean().item()) < 4 * error


def test_the_parts_are_the_closed_forms_of_a_known_aggregate():
    world = CorrelatedData()
    aggregate, batch, runs = Aggregate(world), 500, 60
    # So many data that q(z) over them is q(z) over p(x).
    objective = TotalCorrelation(10**9, beta=1.0)
    found = []
    for _ in range(runs):
        parts = objective.decomposition(*world.programs, world.sample(batch))
        columns = (parts.information, parts.total_correlation, parts.dimension_wise_kl)
        found.append(torch.stack([column.mean() for column in columns]))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(runs)
    # The logarithm of an unbiased estimate from M draws is low by Var / (2 M), to first order.
    joint, product = (v / (2 * (batch - 1)) for v in aggregate.relative_variance())
    bias = torch.tensor([joint, product - joint, -product], dtype=torch.float64)
    # 4 standard errors, and a tenth of the bias for the orders beyond the first.
    tolerance = 4 * error + 0.1 * (abs(joint) + abs(product))
    assert ((found.mean(0) - aggregate.parts - bias).abs() < tolerance).all()
    assert (tolerance < 0.1 * aggregate.parts).all()
    rate = aggregate.parts.sum().item()
    x = world.sample(20_000)
    measured = pv.analytic_kl(world.programs, x)
    assert measured.mean().item() == pytest.approx(
        rate, abs=4 * measured.std().item() / math.sqrt(len(x))
    )


@pytest.mark.parametrize("guide", ["off", "exact"])
@pytest.mark.parametrize("kind", ["means", "aggregate"])
def test_the_dip_penalty_is_that_of_numpys_covariance(kind, guide):
    world = LinearGaussian()
    x, programs = world.sample(ROWS), (world.model, getattr(world, f"{guide}_guide"))
    covariance = np.cov(world.posterior_mean(x).numpy().T)
    if kind == "aggregate":
        within = world.covariance if guide == "exact" else torch.diag(world.off_scale**2)
        covariance = covariance + within.numpy()
    diagonal = np.diag(covariance)
    wanted = 2.0 * (covariance - np.diag(diagonal)) ** 2 + 3.0 * np.diag((diagonal - 1) ** 2)
    found = seeded_loss(DIP(2.0, 3.0, covariance=kind), *programs, x)
    elbo = seeded_loss(Trace_ELBO(), *programs, x)
    assert found - elbo == pytest.approx(ROWS * wanted.sum(), rel=1e-10)


def test_the_discrepancy_is_that_of_the_aggregate_and_the_prior():
    world, width, runs = CorrelatedData(), 1.5, 200
    aggregate = Aggregate(world)
    objective = MMD(GaussianKernel(width), 4.0)
    found = []
    for seed in range(runs):
        x = world.sample(40)
        losses = []
        for each in (objective, Trace_ELBO()):
            torch.manual_seed(seed + 10_000)
            losses.append(each.loss(*world.programs, x))
        found.append((losses[0] - losses[1]) / (4.0 * len(x)))
        torch.manual_seed(seed)
    eye = torch.eye(LATENTS, dtype=torch.float64)

    def kernel(loc, covariance):
        spread = eye + covariance / width**2
        quadratic = loc @ torch.linalg.solve(spread, loc) / width**2
        return (-0.5 * (quadratic + spread.logdet())).exp().item()

    zero, shift, s = 0 * aggregate.loc, aggregate.loc, aggregate.covariance
    wanted = kernel(zero, 2 * s) + kernel(zero, 2 * eye) - 2 * kernel(shift, s + eye)
    error = np.std(found) / math.sqrt(runs)
    assert abs(np.mean(found) - wanted) < 4 * error
    assert error < 0.1 * wanted


def test_under_a_kl_weight_of_0_it_is_the_wasserstein_auto_encoder():
    world, kernel = LinearGaussian(), InverseMultiquadratic(4.0)
    x = world.sample(ROWS)
    programs = kl_weight(0.0).wrap(world.model, world.mode_guide)
    found = seeded_loss(MMD(kernel, 10.0), *programs, x)
    z = world.posterior_mean(x)
    distortion = -td.Normal(z @ world.weight.T + world.mean, world.noise).log_prob(x).sum()
    torch.manual_seed(7)
    prior = torch.randn(ROWS, world.latents, dtype=torch.float64)
    wanted = distortion + 10.0 * ROWS * mmd(z, prior, kernel)
    assert found == pytest.approx(wanted.item(), rel=1e-10)


class LogRatio(nn.Module):
    """The optimal discriminator of a normal aggregate, with a factor and an offset to train."""

    def __init__(self, aggregate):
        super().__init__()
        self.aggregate = aggregate
        self.factor = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, z):
        joint = self.aggregate.normal.log_prob(z)
        product = self.aggregate.marginals.log_prob(z).sum(-1)
        return self.factor * (joint - product) + self.offset


def test_with_the_optimal_discriminator_the_penalty_is_the_total_correlation():
    world, gamma, batch, runs = CorrelatedData(), 2.5, 500, 40
    aggregate = Aggregate(world)
    objective = FactorVAE(gamma, LogRatio(aggregate))
    found = []
    for seed in range(runs):
        x = world.sample(batch)
        torch.manual_seed(seed + 10_000)
        loss = objective.loss(*world.programs, x)
        torch.manual_seed(seed + 10_000)
        elbo = Trace_ELBO().loss(*world.programs, x)
        found.append((loss - elbo) / (gamma * batch))
        torch.manual_seed(seed)
    error = np.std(found) / math.sqrt(runs)
    wanted = aggregate.parts[1].item()
    assert abs(np.mean(found) - wanted) < 4 * error
    assert error < 0.05 * wanted


def test_the_optimal_discriminator_is_where_its_loss_is_stationary():
    world, runs = CorrelatedData(), 40
    discriminator = LogRatio(Aggregate(world))
    objective, parameters = FactorVAE(1.0, discriminator), list(discriminator.parameters())

    def gradient(factor, offset):
        with torch.no_grad():
            discriminator.factor.fill_(factor)
            discriminator.offset.fill_(offset)
        found = []
        for _ in range(runs):
            objective.loss_and_grads(*world.programs, world.sample(1000))
            found.append(torch.stack([parameter.grad for parameter in parameters]))
            for parameter in parameters:
                parameter.grad = None
        found = torch.stack(found)
        return found.mean(0) / (found.std(0) / math.sqrt(runs))

    # In standard errors of independent runs. A permutation that leaves two dimensions of a draw
    # together, one in a thousand, moves the mean by less than one of them.
    assert (gradient(1.0, 0.0).abs() < 4).all()
    assert gradient(0.5, 0.0)[0] < -8
    assert gradient(1.5, 0.0)[0] > 8
    assert gradient(1.0, 0.3)[1] > 8


def test_a_discriminator_sees_several_sites_side_by_side():
    world = Hierarchy()
    x, discriminator = world.sample(ROWS), nn.Linear(3, 1, dtype=torch.float64)
    programs = (world.model, world.exact_guide)
    found = seeded_loss(FactorVAE(2.0, discriminator), *programs, x)
    elbo = seeded_loss(Trace_ELBO(), *programs, x)
    torch.manual_seed(7)
    trace = poutine.trace(world.exact_guide).get_trace(x)
    z = torch.cat([trace.nodes["top"]["value"], trace.nodes["low"]["value"]], -1)
    wanted = elbo + 2.0 * discriminator(z).sum().item()
    assert found == pytest.approx(wanted, rel=1e-10)


def test_a_loss_that_is_nan_is_warned_of():
    vae = LinearGaussian().vae()
    loss = pv.objectives.MMD(lambda x, y: torch.full((len(x), len(y)), torch.nan), weight=1.0)
    with pytest.warns(UserWarning, match="NaN"):
        loss.loss(vae.model, vae.guide, LinearGaussian().sample(4))
