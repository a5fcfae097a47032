"""What handlers refuse: settings out of range, and sites whose KL nothing could stand in for."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from worlds import LinearGaussian, Mixture, data_plate, random

from pyrovae.objectives.handlers import capacity, free_bits, kl_weight


def mean_field():
    world = LinearGaussian()
    return world.vae(), world.sample(4)


SETTINGS = {
    "a KL weight must be": (kl_weight, "beta"),
    "the free KL, in nats, must be": (free_bits, "nats"),
    "a capacity, in nats, must be": (lambda c: capacity(c, strength=1.0), "c"),
    "the strength of a capacity must be": (
        lambda strength: capacity(1.0, strength=strength),
        "strength",
    ),
}


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(("said", "setting"), SETTINGS.items(), ids=SETTINGS)
def test_settings_are_0_or_more_at_first_and_later(said, setting, value):
    make, name = setting
    wanted = f"{said} 0 or more and finite; got {value}"
    with pytest.raises(ValueError, match=wanted):
        make(value)
    handler = make(1.0)
    with pytest.raises(ValueError, match=wanted):
        setattr(handler, name, value)
    assert getattr(handler, name) == 1.0
    setattr(handler, name, 0.1)
    assert getattr(handler, name) == 0.1


def test_free_bits_are_per_dimension_or_per_site():
    with pytest.raises(ValueError, match="per='dimension' or per='site'; got per='latent'"):
        free_bits(1.0, per="latent")


TERMS = {
    "free_bits": lambda: free_bits(1.0, per="site"),
    "capacity": lambda: capacity(1.0, strength=1.0),
}


@pytest.mark.parametrize(("kind", "make"), TERMS.items(), ids=TERMS)
def test_a_model_that_does_not_follow_its_guide_is_refused(kind, make):
    vae, x = mean_field()
    handler = make()
    model, _ = handler.wrap(vae.model, vae.guide)
    said = f"site 'z' of the model was not sampled by the guide that {kind} wrapped"
    for guide in (vae.guide, make().wrap(vae.model, vae.guide)[1]):
        with pytest.raises(ValueError, match=said):
            infer.Trace_ELBO().loss(model, guide, x)
    with pytest.raises(ValueError, match=said):
        poutine.trace(model).get_trace(x)


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_two_handlers_of_one_kl_are_refused(make):
    vae, x = mean_field()
    twice = make().wrap(*free_bits(0.5).wrap(vae.model, vae.guide))
    with pytest.raises(ValueError, match="two handlers replace the KL of site 'z'"):
        infer.Trace_ELBO().loss(*twice, x)


@pytest.mark.parametrize(("kind", "make"), TERMS.items(), ids=TERMS)
@pytest.mark.parametrize("where", ["model", "guide"])
def test_sites_that_are_summed_out_are_refused(kind, make, where):
    world = Mixture()
    programs = {
        "model": (world.model_enumerated, world.guide_without_class),
        "guide": (world.model, world.guide_enumerated),
    }
    objective = infer.TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.raises(
        ValueError, match=f"site 'c' is enumerated, but {kind} needs a sampled site"
    ):
        objective.loss(*make().wrap(*programs[where]), world.sample(3))


def test_auxiliary_sites_are_refused():
    def guide(x):
        with data_plate(x):
            noise = dist.Normal(0 * x[:, 0], 1.0)
            u = pyro.sample("u", noise, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u[..., None] + 0 * x[:, :2], 1.0).to_event(1))

    world = LinearGaussian()
    with pytest.raises(ValueError, match="site 'u' of the guide is auxiliary"):
        infer.Trace_ELBO().loss(*free_bits(1.0).wrap(world.model, guide), world.sample(3))


def test_bits_per_dimension_need_dimensions_that_factorize():
    world = LinearGaussian()
    vae, x = world.vae(world.exact_posterior), world.sample(3)
    with pytest.raises(ValueError, match="site 'z' is a MultivariateNormal.*per='site'"):
        infer.Trace_ELBO().loss(*free_bits(1.0).wrap(vae.model, vae.guide), x)


def test_a_capacity_needs_its_sites_in_the_same_plates():
    def program(x, *, observe):
        zero = torch.zeros((), dtype=torch.float64)
        scale = pyro.sample("scale", dist.LogNormal(zero, 1.0))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0 * x[:, 0], scale))
            if observe:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def model(x):
        program(x, observe=True)

    def guide(x):
        program(x, observe=False)

    x = random(3, 5, 1)
    with pytest.raises(
        ValueError, match=r"same plates; got batch shapes .*'scale': \(\), 'z': \(5,\)"
    ):
        infer.Trace_ELBO().loss(*capacity(1.0, strength=1.0).wrap(model, guide), x)
    # Free bits need no common plate: 1 + 5 terms, of a KL of 0, count 2 nats each.
    for objective in (infer.Trace_ELBO(), infer.TraceMeanField_ELBO()):
        losses = []
        for nats in (0.0, 2.0):
            torch.manual_seed(1)
            losses.append(objective.loss(*free_bits(nats).wrap(model, guide), x))
        assert losses[1] - losses[0] == pytest.approx(12.0, rel=1e-9)
