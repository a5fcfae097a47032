"""Which latent site depends on which, and which sites have univariate factors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from worlds import data_plate, random

import pyrovae as pv
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.sites import latent_sites

TABLE = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])
LINEAR = nn.Linear(2, 2)


def normal(loc):
    return dist.Normal(loc, 1.0).to_event(1)


def pair_of_sites(second, first):
    """Return a guide of a site "a", and a site "b" whose location is a function of it."""

    def guide(x):
        with data_plate(x):
            a = pyro.sample("a", first(x))
            pyro.sample("b", normal(second(a)))

    return guide


def of_reals(x):
    return normal(torch.zeros(len(x), 2))


def of_classes(x):
    return dist.Categorical(torch.ones(len(x), 3))


def written(a):
    out = torch.zeros(*a.shape)
    out[..., 0] = a[..., 1]
    return out


def without_gradient(a):
    with torch.no_grad():
        return LINEAR(a)


DEPENDENT = {
    "faint": (lambda a: 1e-7 * a, of_reals),
    "in place": (written, of_reals),
    "detached": (lambda a: a.detach(), of_reals),
    "without gradient": (without_gradient, of_reals),
    "numpy": (lambda a: torch.from_numpy(2 * a.numpy()), of_reals),
    "Python": (lambda a: torch.tensor(a.tolist()), of_reals),
    "index": (lambda a: TABLE[a], of_classes),
}

INDEPENDENT = {
    "constant": (lambda a: torch.zeros(*a.shape), of_reals),
    "of its shape": (torch.zeros_like, of_reals),
    "network": (lambda a: LINEAR(torch.ones(*a.shape)), of_reals),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_dependence_is_found_however_it_is_written(name):
    sites = latent_sites(pair_of_sites(*DEPENDENT[name]), random(3, 5, 2))
    assert [site.dependent for site in sites] == [False, True]


@pytest.mark.parametrize("name", INDEPENDENT)
def test_no_dependence_is_found_where_there_is_none(name):
    sites = latent_sites(pair_of_sites(*INDEPENDENT[name]), random(3, 5, 2))
    assert [site.dependent for site in sites] == [False, False]


def programs(events):
    """Return a model and a guide of one latent, of shape [N] or [N, 1]."""

    def latent(loc, scale):
        loc = loc if events else loc.squeeze(-1)
        return pyro.sample("z", dist.Normal(loc, scale).to_event(events))

    def model(x):
        with data_plate(x):
            z = latent(torch.zeros(len(x), 1, dtype=x.dtype), 1.0)
            z = z if events else z.unsqueeze(-1)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with data_plate(x):
            latent(0.5 * x, 0.5**0.5)

    return model, guide


def test_a_scalar_site_has_the_numbers_of_a_vector_of_one_entry():
    x, found = random(5, 30, 1), []
    for events in (0, 1):
        with pv.seeded(0):
            found.append(Latents(draws=200)(programs(events), x))
    scalar, vector = found
    assert scalar.verdict == vector.verdict
    assert list(scalar.quantities) == list(vector.quantities)
    for name, number in scalar.quantities.items():
        assert number.mean == pytest.approx(vector.quantities[name].mean, rel=1e-12), name


def test_a_site_given_an_auxiliary_one_has_a_mean_over_its_draws():
    """The mean of z = x + a is x, which varies over the data; at any one draw of a it is not."""

    def model(x):
        with data_plate(x):
            z = pyro.sample("z", normal(torch.zeros(len(x), 2, dtype=x.dtype)))
            pyro.sample("x", normal(z), obs=x)

    def guide(x):
        with data_plate(x):
            a = pyro.sample("a", normal(torch.zeros_like(x)), infer={"is_auxiliary": True})
            pyro.sample("z", normal(x + 3.0 * a))

    x = random(7, 400, 2)
    (site,) = latent_sites(guide, x[:8])
    assert (site.name, site.dependent) == ("z", True)
    with pv.seeded(0):
        found = pv.active_units((model, guide), x)
    # 100 draws of variance 10 leave an error of each datum's mean of 0.32, which is subtracted.
    error = (found.squares.std(0) / len(x) ** 0.5).tolist()
    for variance, truth, one in zip(found.variance, x.var(0), error, strict=True):
        assert abs(variance - truth) < 4 * one
