"""What a guide samples beside its latents: transforms of a draw count, other sites are refused."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from worlds import ENUMERATE, LinearGaussian, data_plate

import pyrovae as pv
from pyrovae.objectives import IWAE

WORLD = LinearGaussian()
X = WORLD.sample(6)
AUXILIARY = {"is_auxiliary": True}


def normal(name, loc, scale, **options):
    return pyro.sample(name, dist.Normal(loc, scale).to_event(1), **options)


def noisy(x):
    """Altogether a normal, but the density of z alone is not among its sites."""
    a = normal("a", WORLD.posterior_mean(x), 0.3, infer=AUXILIARY)
    normal("z", a, 0.3)


def beside(x):
    normal("a", WORLD.posterior_mean(x), 0.3, infer=AUXILIARY)
    WORLD.off_posterior(x)


def more_than_the_latent(x):
    a = normal("a", torch.zeros(len(x), 4).double(), 1.0, infer=AUXILIARY)
    pyro.sample("z", dist.Delta(a[..., :2] + a[..., 2:], event_dim=1))


def no_volume(x):
    """A transform that stretches without saying so."""
    a = normal("a", WORLD.posterior_mean(x), 0.3, infer=AUXILIARY)
    pyro.sample("z", dist.Delta(2 * a, event_dim=1))


def not_one_to_one(x):
    a = normal("a", WORLD.posterior_mean(x), 0.3, infer=AUXILIARY)
    pyro.sample("z", dist.Delta(a[..., :1].expand(a.shape), event_dim=1))


def a_point_beside(x):
    normal("a", WORLD.posterior_mean(x), 0.3, infer=AUXILIARY)
    pyro.sample("z", dist.Delta(WORLD.posterior_mean(x), event_dim=1))


def strata(x):
    c = pyro.sample("a", dist.Categorical(torch.ones(2)), infer={**ENUMERATE, **AUXILIARY})
    normal("z", c[..., None] + torch.zeros(len(x), 2).double(), 1.0)


def classes(x):
    c = pyro.sample("a", dist.Categorical(torch.ones(2)), infer=AUXILIARY)
    normal("z", c[..., None] + torch.zeros(len(x), 2).double(), 1.0)


REFUSED = [
    noisy,
    beside,
    more_than_the_latent,
    no_volume,
    not_one_to_one,
    a_point_beside,
    strata,
    classes,
]


def program(sites):
    def guide(x):
        with data_plate(x):
            sites(x)

    return guide


@pytest.mark.parametrize("sites", REFUSED, ids=lambda sites: sites.__name__)
def test_auxiliary_draws_that_are_not_transformed_to_the_latents_are_refused(sites):
    with pytest.raises(ValueError, match=r"depends on the auxiliary sites \['a'\]"):
        pv.evaluate((WORLD.model, program(sites)), X, particles=3)


@pytest.mark.parametrize("sites", [noisy, beside, classes], ids=lambda s: s.__name__)
def test_objectives_refuse_them_too(sites):
    with pytest.raises(ValueError, match=r"depends on the auxiliary sites \['a'\]"):
        IWAE(3).loss(WORLD.model, program(sites), X)


@pytest.mark.parametrize("particles", [1, 4])
def test_a_transform_that_says_its_volume_is_the_density_that_it_makes(particles):
    def stretched(x):
        unit = normal("a", torch.zeros(2).double(), 1.0, infer=AUXILIARY)
        z = WORLD.posterior_mean(x) + unit @ WORLD.scale_tril.T
        volume = WORLD.scale_tril.diagonal().log().sum()
        log_density = -volume.expand(z.shape[:-1])
        pyro.sample("z", dist.Delta(z, log_density=log_density, event_dim=1))

    log_w = pv.log_weights((WORLD.model, program(stretched)), X, particles=particles)
    torch.testing.assert_close(log_w, WORLD.log_evidence(X).expand(particles, -1))


def positive_model(x):
    """z ~ Gamma(3, 1), y ~ N(0, 1) and x | z, y: a latent whose support is not the real line."""
    with data_plate(x):
        three = torch.full((2,), 3.0, dtype=torch.float64)
        z = pyro.sample("z", dist.Gamma(three, 1.0).to_event(1))
        y = pyro.sample("y", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z + y[..., None], 1.0).to_event(1), obs=x)


def prior_of_positive():
    three = torch.full((2,), 3.0, dtype=torch.float64)
    pyro.sample("z", dist.Gamma(three, 1.0).to_event(1))
    pyro.sample("y", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))


WIDE = {"init_scale": 1.0, "init_loc_fn": autoguide.init_to_mean}
AUTOGUIDES = {
    "AutoNormal": functools.partial(autoguide.AutoNormal, **WIDE),
    "AutoDiagonalNormal": functools.partial(autoguide.AutoDiagonalNormal, **WIDE),
    "AutoMultivariateNormal": functools.partial(autoguide.AutoMultivariateNormal, **WIDE),
    "AutoLowRankMultivariateNormal": functools.partial(
        autoguide.AutoLowRankMultivariateNormal, **WIDE, rank=1
    ),
    "AutoIAFNormal": functools.partial(autoguide.AutoIAFNormal, hidden_dim=[8]),
    "AutoStructured": functools.partial(
        autoguide.AutoStructured, **WIDE, conditionals="mvn", dependencies="linear"
    ),
}


@pytest.mark.parametrize("make", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_the_autoguides_of_pyro_transform_a_draw(make):
    """Guides of the prior's sites, the same for each datum: weights average p(x) as ever."""
    world = LinearGaussian(scale=0.3)
    x = world.sample(3)
    exact = functools.partial(pv.log_weights, particles=4000)
    with pyro.settings.context(module_local_params=True):
        auto = make(world.prior)
        auto()
        guide = program(lambda x: auto())  # noqa: ARG005
        log_w = exact((world.model, guide), x).detach()
    ratio = (log_w - world.log_evidence(x)).exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 4000**0.5).all()


@pytest.mark.parametrize("make", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_the_autoguides_of_pyro_serve_positive_latents(make):
    with pyro.settings.context(module_local_params=True):
        auto = make(prior_of_positive)
        auto()
        guide = program(lambda x: auto())  # noqa: ARG005
        report = pv.evaluate((positive_model, guide), 3 + X[:, :2], particles=50)
    assert report.point_masses == ()


def test_a_point_may_stand_beside_an_autoguide():
    with pyro.settings.context(module_local_params=True):
        auto = autoguide.AutoGuideList(prior_of_positive)
        block = functools.partial(pyro.poutine.block, prior_of_positive)
        auto.append(autoguide.AutoNormal(block(expose=["z"])))
        auto.append(autoguide.AutoDelta(block(expose=["y"])))
        auto()
        guide = program(lambda x: auto())  # noqa: ARG005
        report = pv.evaluate((positive_model, guide), 3 + X[:, :2], particles=50)
    assert report.point_masses == ("y",)


@pytest.mark.parametrize("marked", [False, True])
def test_a_factor_in_the_guide_is_refused(marked):
    """It would count in log q: the bound rose above log p by what the factor takes off."""

    def factored(x):
        WORLD.exact_posterior(x)
        if marked:
            pyro.factor("push", torch.full((len(x),), -2.0).double(), has_rsample=True)
        else:
            pyro.sample("push", dist.Normal(x[:, 0], 1.0), obs=torch.zeros(len(x)).double())

    guide = program(factored)
    with pytest.raises(ValueError, match=r"guide observes \['push'\].*pyro\.factor"):
        pv.evaluate((WORLD.model, guide), X, particles=3)
    with pytest.raises(ValueError, match=r"guide observes \['push'\]"):
        IWAE(3).loss(WORLD.model, guide, X)


def test_a_guide_that_observes_its_latent_is_refused():
    def observed(x):
        pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1), obs=0 * x[:, :2])

    with pytest.raises(ValueError, match=r"guide observes \['z'\]"):
        pv.log_weights((WORLD.model, program(observed)), X, particles=3)
