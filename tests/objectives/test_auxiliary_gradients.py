"""Gradients of a guide that transforms a draw: those of its density, or refused."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from learned import flat, mean_gradient, parameter
from pyro.infer import autoguide
from torch import nn
from worlds import data_plate, random

from pyrovae.objectives import CUBO, IWAE, PIWAE, ReweightedWakeSleep

FIXED_Z = {
    "stl": IWAE(3, gradient="stl"),
    "dreg": IWAE(3, gradient="dreg"),
    "CUBO, dreg": CUBO(2.0, 3, gradient="dreg"),
    "PIWAE, stl": PIWAE(4, k=2, gradient="stl"),
    "wake-sleep": ReweightedWakeSleep(3),
    "wake-sleep, dreg": ReweightedWakeSleep(3, gradient="dreg"),
}
"""Objectives that differentiate log q at fixed latents."""

each_objective = pytest.mark.parametrize("objective", FIXED_Z.values(), ids=FIXED_Z.keys())


class Scalar(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1), and q(z) = N(mean, exp(log_scale)^2), written in several ways."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_scale = parameter(0.3), parameter(-0.5)

    @staticmethod
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def at_once(self, x):
        with data_plate(x):
            pyro.sample("z", dist.Normal(self.mean, self.log_scale.exp()))

    def by_a_fixed_map(self, x):
        """Draw u ~ N((mean - 1) / 2, (s / 2)^2), and z = 1 + 2 u."""
        with data_plate(x):
            density = dist.Normal((self.mean - 1) / 2, self.log_scale.exp() / 2)
            u = pyro.sample("u", density, infer={"is_auxiliary": True})
            stretch = -u.new_tensor(math.log(2)).expand(u.shape)
            pyro.sample("z", dist.Delta(1 + 2 * u, log_density=stretch))

    def by_its_own_map(self, x):
        """Draw u ~ N(0, 1), and z = mean + s u."""
        with data_plate(x):
            unit = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
            u = pyro.sample("u", unit, infer={"is_auxiliary": True})
            z, stretch = self.mean + self.log_scale.exp() * u, -self.log_scale.expand(u.shape)
            pyro.sample("z", dist.Delta(z, log_density=stretch))

    def by_its_own_volume(self, x):
        """Say a log-density with a parameter of its own, at a map without any."""
        with data_plate(x):
            unit = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
            u = pyro.sample("u", unit, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, log_density=-self.log_scale.expand(u.shape)))


@each_objective
def test_a_fixed_map_has_the_gradient_of_the_density_that_it_makes(objective):
    world, x = Scalar(), random(0, 5, 1)

    def gradient(guide):
        torch.manual_seed(0)
        loss = objective.differentiable_loss(world.model, guide, x)
        return flat(torch.autograd.grad(loss, [world.mean, world.log_scale]))

    met, wanted = gradient(world.by_a_fixed_map), gradient(world.at_once)
    torch.testing.assert_close(met, wanted, rtol=1e-9, atol=1e-9)
    assert (wanted.abs() > 0.01).all()


@each_objective
@pytest.mark.parametrize("way", ["by_its_own_map", "by_its_own_volume"])
def test_a_map_with_parameters_is_refused_where_log_q_is_needed_at_a_fixed_latent(objective, way):
    world = Scalar()
    words = r"auxiliary sites \['u'\] to \['z'\] has parameters.*gradient='plain'.*Transformed"
    with pytest.raises(ValueError, match=words):
        objective.differentiable_loss(world.model, getattr(world, way), random(0, 5, 1))


def test_a_map_with_parameters_has_the_plain_gradient_of_the_elbo():
    world, x = Scalar(), random(0, 1, 1)
    mean, scale = world.mean.item(), world.log_scale.exp().item()
    # KL(q || p(z | x)) = (mean - x / 2)^2 + s^2 - log s + constant: p(z | x) is N(x / 2, 1 / 2).
    wanted = torch.tensor([2 * mean - x.item(), 2 * scale**2 - 1], dtype=torch.float64)

    def loss(x):
        return IWAE(1).differentiable_loss(world.model, world.by_its_own_map, x)

    assert mean_gradient(loss, x, [world.mean, world.log_scale]).agrees(wanted)


def prior():
    zero = torch.zeros(2, dtype=torch.float64)
    pyro.sample("z", dist.LogNormal(zero, 1.0).to_event(1))
    pyro.sample("y", dist.Normal(zero[0], 1.0))


def model_of_both(x):
    with data_plate(x):
        prior()


def made(auto):
    """Return the program of an autoguide of `prior`, the same for each datum."""
    auto()

    def guide(x):
        with data_plate(x):
            auto()

    return guide


@pytest.fixture
def local_parameters():
    with pyro.settings.context(module_local_params=True):
        yield


autoguides = pytest.mark.usefixtures("local_parameters")


AUTOGUIDES = {
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": functools.partial(
        autoguide.AutoLowRankMultivariateNormal, rank=1
    ),
    "AutoIAFNormal": functools.partial(autoguide.AutoIAFNormal, hidden_dim=[8]),
}
"""The autoguides of Pyro whose draw has all of their parameters."""


@autoguides
@each_objective
@pytest.mark.parametrize("make", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_the_autoguides_of_pyro_map_their_draws_without_parameters(make, objective):
    guide = made(make(prior))
    loss = objective.differentiable_loss(model_of_both, guide, random(0, 4, 1))
    assert loss.isfinite()
    assert loss.requires_grad


@autoguides
def test_an_autoguide_whose_map_is_learned_is_refused():
    structured = functools.partial(autoguide.AutoStructured, dependencies="linear")
    guide = made(structured(prior, conditionals="normal"))
    with pytest.raises(ValueError, match="has parameters"):
        IWAE(3, gradient="stl").differentiable_loss(model_of_both, guide, random(0, 4, 1))


@autoguides
def test_a_point_beside_an_autoguide_has_stl_but_no_dreg():
    auto = autoguide.AutoGuideList(prior)
    block = functools.partial(pyro.poutine.block, prior)
    auto.append(autoguide.AutoNormal(block(expose=["z"])))
    auto.append(autoguide.AutoDelta(block(expose=["y"])))
    guide, x = made(auto), random(0, 4, 1)
    grads = []
    for gradient in ("stl", "plain"):
        torch.manual_seed(0)
        loss = IWAE(1, gradient=gradient).differentiable_loss(model_of_both, guide, x)
        grads += torch.autograd.grad(loss, [auto[1].y])
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match=r"\['y'\] has parameters"):
        IWAE(3, gradient="dreg").differentiable_loss(model_of_both, guide, x)
