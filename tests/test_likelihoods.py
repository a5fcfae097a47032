"""Likelihoods: densities against torch's, shapes, scales and domains."""

import pyro
import pytest
import torch
from pyro import poutine
from torch import distributions as td
from torch import nn
from torch.distributions import constraints
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.nets import positive

NORMAL, LAPLACE = likelihoods.Normal, likelihoods.Laplace


def scaled(family, torchs):
    """Return the three forms of a family of location and scale: (make, width, truth)."""
    return {
        f"{family.__name__}, fixed": (
            lambda net: family(net, scale=0.3),
            3,
            lambda h: torchs(h, 0.3),
        ),
        f"{family.__name__}, learned": (lambda net: family(net), 3, lambda h: torchs(h, 1.0)),
        f"{family.__name__}, network": (
            lambda net: family(net, scale="network"),
            6,
            lambda h: torchs(h[..., :3], positive(h[..., 3:])),
        ),
    }


LIKELIHOODS = {
    "Bernoulli": (likelihoods.Bernoulli, 3, lambda h: td.Bernoulli(logits=h)),
    **scaled(NORMAL, td.Normal),
    **scaled(LAPLACE, td.Laplace),
}
table = pytest.mark.parametrize(
    ("make", "width", "truth"), LIKELIHOODS.values(), ids=LIKELIHOODS.keys()
)


def site_of(likelihood, z, x=None, plates=()):
    with poutine.trace() as tape, pyro.plate("data", z.shape[-2], dim=-1):
        value = likelihood(z, x)
    site = tape.trace.nodes["x"]
    return site["fn"], value, site["is_observed"]


@table
def test_the_density_is_torchs_summed_over_x(make, width, truth):
    net = pv.nets.MLP(2, 4, width)
    likelihood = make(net).double()
    z, x = random(0, 5, 2), (random(1, 5, 3) > 0).double()
    fn, value, observed = site_of(likelihood, z, x)
    assert observed
    assert value is x
    # The learned scale starts at 1 up to the four figures of its initial value.
    torch.testing.assert_close(
        fn.log_prob(x), truth(net(z)).log_prob(x).sum(-1), rtol=1e-4, atol=1e-4
    )


@table
def test_x_is_drawn_in_its_domain_where_none_is_given(make, width, truth):
    likelihood = make(pv.nets.MLP(2, 4, width))
    fn, value, observed = site_of(likelihood, torch.randn(5, 2))
    assert not observed
    assert value.shape == (5, 3)
    assert likelihood.domain.check(value).all()
    pv.data.check_domain(value, likelihood.domain, "the likelihood")


@table
def test_particles_stay_in_front_of_the_data(make, width, truth):
    likelihood, z = make(pv.nets.MLP(2, 4, width)), torch.randn(4, 5, 2)
    with (
        poutine.trace() as tape,
        pyro.plate("particles", 4, dim=-2),
        pyro.plate("data", 5, dim=-1),
    ):
        likelihood(z, torch.ones(5, 3))
    fn = tape.trace.nodes["x"]["fn"]
    assert (fn.batch_shape, fn.event_shape) == ((4, 5), (3,))
    alone, _, _ = site_of(likelihood, z[2], torch.ones(5, 3))
    torch.testing.assert_close(fn.log_prob(torch.ones(5, 3))[2], alone.log_prob(torch.ones(5, 3)))


@table
def test_the_density_is_finite_where_the_network_says_fifty(make, width, truth):
    for h in (-50.0, 50.0):
        net = nn.Linear(2, width)
        nn.init.zeros_(net.weight)
        nn.init.constant_(net.bias, h)
        fn, _, _ = site_of(make(net), torch.zeros(4, 2), torch.ones(4, 3))
        log_p = fn.log_prob(torch.ones(4, 3))
        log_p.sum().backward()
        assert log_p.isfinite().all()
        assert net.bias.grad.isfinite().all()


def test_all_axes_beyond_the_latents_are_the_event():
    net = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (3, 2, 2)))
    fn, value, _ = site_of(likelihoods.Bernoulli(net), torch.zeros(5, 2))
    assert (fn.batch_shape, fn.event_shape, value.shape) == ((5,), (3, 2, 2), (5, 3, 2, 2))


@pytest.mark.parametrize("family", [NORMAL, LAPLACE])
def test_only_a_learned_scale_is_trained_and_a_fixed_one_is_kept_with_the_state(family):
    learned, fixed = family(nn.Linear(2, 3)), family(nn.Linear(2, 3), scale=0.3)
    assert set(dict(learned.named_parameters())) - set(dict(fixed.named_parameters())) == {
        "raw_scale"
    }
    assert float(fixed.state_dict()["fixed_scale"]) == pytest.approx(0.3)
    fn, _, _ = site_of(learned, torch.zeros(4, 2), torch.ones(4, 3))
    fn.log_prob(torch.ones(4, 3)).sum().backward()
    assert learned.raw_scale.grad.abs() > 0


@pytest.mark.parametrize("family", [NORMAL, LAPLACE])
@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_a_fixed_scale_that_is_not_positive_and_finite_is_refused(family, scale):
    with pytest.raises(ValueError, match=f"scale is positive and finite; got {scale}"):
        family(nn.Identity(), scale=scale)


@pytest.mark.parametrize("family", [NORMAL, LAPLACE])
def test_an_unknown_kind_of_scale_is_refused(family):
    with pytest.raises(ValueError, match="a positive number, 'learned' or 'network'; got 'other'"):
        family(nn.Identity(), scale="other")


@pytest.mark.parametrize("family", [NORMAL, LAPLACE])
def test_an_odd_width_is_refused_where_the_network_gives_the_scale(family):
    likelihood = family(nn.Linear(2, 5), scale="network")
    with pytest.raises(ValueError, match=rf"{family.__name__}.*even.*got 5"):
        site_of(likelihood, torch.zeros(4, 2), torch.ones(4, 3))


def test_domains():
    assert likelihoods.Bernoulli.domain is constraints.boolean
    assert NORMAL.domain is constraints.real
    assert LAPLACE.domain is constraints.real


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        likelihoods.Likelihood(nn.Identity())
