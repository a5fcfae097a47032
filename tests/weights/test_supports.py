"""Before training, a guide that draws where the model has no density is named with its site."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

import pyrovae as pv

ZERO, ONE = torch.zeros(2), torch.ones(2)


class Program(nn.Module):
    """Sample z from a distribution that is made anew, with something to train."""

    def __init__(self, make):
        super().__init__()
        self.make, self.shift = make, nn.Parameter(torch.zeros(()))

    def forward(self, *_):
        fn = self.make()
        return pyro.sample("z", fn.to_event(1 - fn.event_dim))


class Scored(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, z, x=None):
        return pyro.sample("x", dist.Normal(self.net(z.float()), 1.0).to_event(1), obs=x)


class Rates(nn.Module):
    """A likelihood that cannot run at a z below 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, z, x=None):
        return pyro.sample("x", dist.Poisson(z @ self.weight).to_event(1), obs=x)


def trained(prior, guide, likelihood=None):
    torch.manual_seed(0)
    vae = pv.VAE(Program(prior), likelihood or Scored(), Program(guide))
    return pv.fit(vae, torch.ones(20, 3), epochs=1, callbacks=[])


MISMATCHED = {
    "positive, normal": (lambda: dist.Gamma(2 * ONE, 1.0), lambda: dist.Normal(ZERO, 1.0)),
    "positive, a normal far from 0": (
        lambda: dist.Gamma(2 * ONE, 1.0),
        lambda: dist.Normal(5 * ONE, 0.01),
    ),
    "the unit interval, positive": (
        lambda: dist.Beta(ONE, 2.0),
        lambda: dist.LogNormal(-9 * ONE, 0.1),
    ),
    "an interval, normal": (lambda: dist.Uniform(-ONE, 1.0), lambda: dist.Normal(ZERO, 1e-3)),
    "the simplex, normal": (lambda: dist.Dirichlet(ONE), lambda: dist.Normal(ZERO, 1.0)),
    "an interval, a wider one": (
        lambda: dist.Uniform(ZERO, 1.0),
        lambda: dist.Uniform(ZERO, 1.01 * ONE),
    ),
    "0 or 1, counts": (lambda: dist.Bernoulli(0.5 * ONE), lambda: dist.Poisson(9 * ONE)),
    "counts, normal": (lambda: dist.Poisson(ONE), lambda: dist.Normal(ZERO, 1.0)),
}

MATCHED = {
    "normal, normal": (lambda: dist.Normal(ZERO, 1.0), lambda: dist.Normal(ONE, 2.0)),
    "normal, Laplace": (lambda: dist.Normal(ZERO, 1.0), lambda: dist.Laplace(ONE, 2.0)),
    "positive, positive": (lambda: dist.Gamma(2 * ONE, 1.0), lambda: dist.LogNormal(ZERO, 1.0)),
    "real, positive": (lambda: dist.Normal(ZERO, 1.0), lambda: dist.LogNormal(ZERO, 1.0)),
    "the unit interval": (lambda: dist.Uniform(ZERO, 1.0), lambda: dist.Beta(ONE, 2.0)),
    "the simplex": (lambda: dist.Dirichlet(ONE), lambda: dist.Dirichlet(2 * ONE)),
    "the simplex, softmax": (
        lambda: dist.Dirichlet(ONE),
        lambda: dist.LogisticNormal(torch.zeros(1), torch.ones(1)),
    ),
    "one turn, von Mises": (
        lambda: dist.Uniform(-math.pi * ONE, math.pi),
        lambda: dist.VonMises(ZERO, 1.0),
    ),
    "counts, 0 or 1": (lambda: dist.Poisson(ONE), lambda: dist.Bernoulli(0.5 * ONE)),
    "classes": (
        lambda: dist.OneHotCategorical(ONE),
        lambda: dist.OneHotCategoricalStraightThrough(ONE),
    ),
    "a point": (lambda: dist.Gamma(2 * ONE, 1.0), lambda: dist.Delta(ONE)),
}


@pytest.mark.parametrize(("prior", "guide"), MISMATCHED.values(), ids=MISMATCHED.keys())
def test_a_guide_that_draws_where_the_prior_has_no_density_is_refused(prior, guide):
    with pytest.raises(ValueError, match=r"'z' has the support \w.* in the guide but.* in the mo"):
        trained(prior, guide)


@pytest.mark.parametrize(("prior", "guide"), MATCHED.values(), ids=MATCHED.keys())
def test_a_guide_within_the_support_of_the_prior_trains(prior, guide):
    assert math.isfinite(trained(prior, guide).epochs[0].loss)


def test_the_supports_are_named_where_the_likelihood_cannot_even_run():
    prior, guide = MISMATCHED["positive, normal"]
    with pytest.raises(
        ValueError, match=r"support Real in the guide .*GreaterThan\w*\(lower_bound=0\)"
    ) as caught:
        trained(prior, guide, Rates())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_autoguides_that_transform_their_draws_train(kind):
    net = nn.Linear(2, 3)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(2 * ONE, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    x = torch.ones(20, 3)
    history = pv.fit((model, kind(model)), x, epochs=1, batch_size=20, callbacks=[])
    pyro.clear_param_store()
    assert math.isfinite(history.epochs[0].loss)


def test_a_masked_site_may_draw_anything_where_it_is_masked():
    nowhere = torch.zeros((), dtype=torch.bool)

    def prior():
        return dist.Gamma(2 * ONE, 1.0, validate_args=False).mask(nowhere)

    def guide():
        return dist.Normal(ZERO, 1.0).mask(nowhere)

    assert math.isfinite(trained(prior, guide).epochs[0].loss)


def straight_through(relaxed, prior):
    """A prior over classes, with a guide that draws classes but scores a density."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", prior)
            pyro.sample("x", dist.Normal(c, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", relaxed)

    return model, guide


DENSITIES = {
    "one-hot": straight_through(
        dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=ZERO),
        dist.OneHotCategorical(logits=ZERO),
    ),
    "binary": straight_through(
        dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=ZERO).to_event(1),
        dist.Bernoulli(logits=ZERO).to_event(1),
    ),
    "a relaxed prior": straight_through(
        dist.OneHotCategorical(logits=ZERO),
        dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=ZERO, validate_args=False),
    ),
}


@pytest.mark.parametrize("pair", DENSITIES.values(), ids=DENSITIES.keys())
@pytest.mark.parametrize(
    "measure",
    [
        lambda pair, x: pv.log_weights(pair, x, particles=2),
        lambda pair, x: pv.evaluate(pair, x, particles=2),
        lambda pair, x: pv.objectives.IWAE(2).loss(*pair, x),
    ],
    ids=["log_weights", "evaluate", "IWAE"],
)
def test_probabilities_over_densities_are_no_weights(pair, measure):
    with pytest.raises(ValueError, match=r"'c' has .* in the model \(.*ratio is no weight"):
        measure(pair, torch.ones(3, 2))


def test_a_point_or_another_discrete_family_has_weights():
    """The straight-through family with probabilities, and a class that the guide is certain of."""
    prior = dist.OneHotCategorical(logits=ZERO)
    for fn in (
        dist.OneHotCategoricalStraightThrough(logits=ZERO),
        dist.Delta(torch.tensor([1.0, 0.0]), event_dim=1),
    ):
        log_w = pv.log_weights(straight_through(fn, prior), torch.ones(3, 2), particles=2)
        assert log_w.isfinite().all()
