"""KL divergences against torch, numerical integration, particles and worlds that are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import poutine
from scipy.integrate import quad
from torch import distributions as td
from worlds import Hierarchy, LinearGaussian, Mixture, data_plate, random

import pyrovae as pv
from pyrovae.weights import kl
from pyrovae.weights.kl import closed_form_kl, dimension_rates
from pyrovae.weights.pair import TracePair

SEEDS = st.integers(0, 10_000)
LOGS = st.floats(-1.5, 1.5)


def normal(seed, size, *batch):
    """Draw a mean and a Cholesky factor whose diagonal lies well away from 0."""
    loc, raw = random(seed, *batch, size), random(seed + 1, *batch, size, size)
    diagonal = raw.diagonal(dim1=-2, dim2=-1).exp()
    return 2 * loc, raw.tril(-1) + torch.diag_embed(diagonal)


@given(seeds=st.tuples(SEEDS, SEEDS), size=st.integers(1, 6))
def test_full_covariance_equals_torchs(seeds, size):
    q, p = normal(seeds[0], size, 3), normal(seeds[1], size, 3)
    wanted = td.kl_divergence(
        td.MultivariateNormal(q[0], scale_tril=q[1]), td.MultivariateNormal(p[0], scale_tril=p[1])
    )
    found = kl.multivariate_normal_kl(*q, *p)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@given(seeds=st.tuples(SEEDS, SEEDS), size=st.integers(1, 6))
def test_diagonal_and_standard_cases_equal_torchs_and_the_full_one(seeds, size):
    loc_q, loc_p = random(seeds[0], 3, size), random(seeds[1], 3, size)
    scale_q, scale_p = random(seeds[0] + 1, 3, size).exp(), random(seeds[1] + 1, 3, size).exp()
    wanted = td.kl_divergence(td.Normal(loc_q, scale_q), td.Normal(loc_p, scale_p)).sum(-1)
    found = kl.diagonal_normal_kl(loc_q, scale_q, loc_p, scale_p)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    full = kl.multivariate_normal_kl(
        loc_q, torch.diag_embed(scale_q), loc_p, torch.diag_embed(scale_p)
    )
    torch.testing.assert_close(full, wanted, rtol=1e-9, atol=1e-9)
    wanted = td.kl_divergence(td.Normal(loc_q, scale_q), td.Normal(0.0, 1.0)).sum(-1)
    standard = kl.standard_normal_kl(loc_q, scale_q)
    torch.testing.assert_close(standard, wanted, rtol=1e-9, atol=1e-9)


@given(locs=st.tuples(LOGS, LOGS), logs=st.tuples(LOGS, LOGS))
def test_one_dimension_equals_the_integral(locs, logs):
    def log_density(z, loc, log_scale):
        return -0.5 * ((z - loc) / math.exp(log_scale)) ** 2 - log_scale

    def integrand(z):
        log_q, log_p = (log_density(z, *of) for of in zip(locs, logs, strict=True))
        return math.exp(log_q) / math.sqrt(2 * math.pi) * (log_q - log_p)

    # Beyond 12 scales of q the integrand is below 1e-28; quad bounds its own error.
    ends = (locs[0] - 12 * math.exp(logs[0]), locs[0] + 12 * math.exp(logs[0]))
    wanted, error = quad(integrand, *ends, epsabs=1e-9, epsrel=1e-9)
    q, p = (
        (
            torch.tensor([loc], dtype=torch.float64),
            torch.tensor([math.exp(log)], dtype=torch.float64),
        )
        for loc, log in zip(locs, logs, strict=True)
    )
    found = kl.diagonal_normal_kl(*q, *p)
    assert float(found) == pytest.approx(wanted, abs=error + 1e-9)


def test_leading_axes_broadcast():
    q, p = normal(0, 3, 5, 1), normal(1, 3, 4)
    found = kl.multivariate_normal_kl(*q, *p)
    assert found.shape == (5, 4)
    one = kl.multivariate_normal_kl(q[0][2, 0], q[1][2, 0], p[0][3], p[1][3])
    torch.testing.assert_close(found[2, 3], one)


def test_the_divergence_is_zero_for_equals_positive_else_and_not_symmetric():
    q, p = normal(0, 3, 20), normal(40, 3, 20)
    there, back = kl.multivariate_normal_kl(*q, *p), kl.multivariate_normal_kl(*p, *q)
    torch.testing.assert_close(
        kl.multivariate_normal_kl(*q, *q), torch.zeros(20).double(), rtol=0, atol=1e-9
    )
    assert (there > 0).all()
    assert ((there - back).abs() > 1e-3).all()
    # Two normals of scale 1 and e^-1: each direction by hand.
    wide, narrow = (torch.zeros(1), torch.ones(1)), (torch.zeros(1), torch.ones(1) / math.e)
    assert float(kl.diagonal_normal_kl(*narrow, *wide)) == pytest.approx((math.e**-2 + 1) / 2)
    assert float(kl.diagonal_normal_kl(*wide, *narrow)) == pytest.approx((math.e**2 - 3) / 2)


FAMILIES = {
    "diagonal, diagonal": lambda s: td.Independent(td.Normal(random(s, 3), random(s, 3).exp()), 1),
    "full, full": lambda s: td.MultivariateNormal(normal(s, 3)[0], scale_tril=normal(s, 3)[1]),
    "low rank": lambda s: td.LowRankMultivariateNormal(
        random(s, 3), random(s + 1, 3, 2), random(s + 2, 3).exp()
    ),
}


@pytest.mark.parametrize("q", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("p", FAMILIES.values(), ids=FAMILIES.keys())
def test_closed_forms_cover_any_two_normals(q, p):
    q, p = q(0), p(7)
    normals = [td.MultivariateNormal(d.mean, _covariance(d)) for d in (q, p)]
    torch.testing.assert_close(kl.closed_form_kl(q, p), td.kl_divergence(*normals))


def _covariance(distribution):
    if isinstance(distribution, td.MultivariateNormal | td.LowRankMultivariateNormal):
        return distribution.covariance_matrix
    return torch.diag(distribution.variance)


def test_the_closed_form_of_two_unlike_families_is_not_implemented():
    with pytest.raises(NotImplementedError):
        kl.closed_form_kl(td.Laplace(0.0, 1.0), td.StudentT(5.0))


@pytest.mark.parametrize("posterior", ["off_posterior", "exact_posterior"])
def test_the_rate_of_a_vae_is_that_of_torch_and_of_its_particles(posterior):
    world = LinearGaussian()
    x, vae = world.sample(6), world.vae(getattr(world, posterior))
    loc = vae.encode(x).mean
    tril = world.scale_tril if posterior == "exact_posterior" else torch.diag(world.off_scale)
    prior = td.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    wanted = td.kl_divergence(td.MultivariateNormal(loc, scale_tril=tril), prior)
    found = pv.analytic_kl(vae, x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    estimate = pv.monte_carlo_kl(vae, x, particles=2000)
    assert ((estimate.value - found).abs() < 4 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.2).all()


@given(seed=SEEDS, loc=st.floats(-2, 2), log_scale=LOGS)
def test_particles_agree_with_the_closed_form_over_random_normals(seed, loc, log_scale):
    def model(x):
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    def guide(x):
        with data_plate(x):
            scale = math.exp(log_scale) * torch.ones(2).double()
            pyro.sample("z", dist.Normal(x[:, :2] + loc, scale).to_event(1))

    torch.manual_seed(seed)
    x = random(seed, 3, 2)
    estimate = pv.monte_carlo_kl((model, guide), x, particles=1000)
    exact = pv.analytic_kl((model, guide), x)
    # 4 standard errors, 4.5 for the maximum over the 150 numbers that this test compares.
    assert ((estimate.value - exact).abs() < 4.5 * estimate.standard_error).all()


def test_the_particles_are_those_of_log_weights():
    world = LinearGaussian()
    x = world.sample(4)
    torch.manual_seed(1)
    estimate = pv.monte_carlo_kl((world.model, world.off_guide), x, particles=9)
    torch.manual_seed(1)
    terms = pv.log_weight_terms((world.model, world.off_guide), x, particles=9)
    torch.testing.assert_close(estimate.value, terms.rate.mean(0), rtol=0, atol=0)
    torch.testing.assert_close(estimate.standard_error, terms.rate.std(0) / 3)


def test_the_rate_of_a_hierarchy_is_estimated_site_by_site():
    world = Hierarchy()
    x = world.sample(3)
    torch.manual_seed(1)
    draws = torch.stack([pv.analytic_kl((world.model, world.exact_guide), x) for _ in range(300)])
    error = draws.std(0) / math.sqrt(300)
    assert ((draws.mean(0) - world.posterior_kl(x)).abs() < 4 * error).all()
    found = pv.analytic_kl((world.model, world.exact_guide), x, particles=3000)
    assert ((found - world.posterior_kl(x)).abs() < 4 * draws.std(0) / math.sqrt(3000)).all()


def test_a_mask_takes_a_datum_out_and_a_scale_changes_nothing():
    world = LinearGaussian()
    x, kept = world.sample(4), torch.tensor([True, False, True, False])
    whole = pv.analytic_kl((world.model, world.off_guide), x)
    model, guide = (poutine.scale(p, 0.3) for p in (world.model, world.off_guide))
    torch.testing.assert_close(pv.analytic_kl((model, guide), x), whole, rtol=0, atol=0)
    model, guide = (poutine.mask(p, mask=kept) for p in (world.model, world.off_guide))
    torch.testing.assert_close(pv.analytic_kl((model, guide), x), whole * kept)


def test_a_site_without_a_closed_form_is_named():
    world = LinearGaussian()

    def prior():
        return pyro.sample("z", dist.StudentT(5.0, torch.zeros(2).double(), 1.0).to_event(1))

    vae = pv.VAE(prior, world.likelihood, world.off_posterior)
    message = r"site 'z' has no closed form for KL\(Normal \|\| StudentT\): use monte_carlo_kl"
    with pytest.raises(ValueError, match=message):
        pv.analytic_kl(vae, world.sample(3))


def test_a_site_that_is_summed_out_is_named():
    world = Mixture()
    with pytest.raises(ValueError, match="site 'c' is summed out.*use monte_carlo_kl"):
        pv.analytic_kl((world.model, world.guide_enumerated), world.sample(3))


def test_sites_in_another_order_are_refused():
    world = Hierarchy()
    message = r"guide samples \['low', 'top'\] and the model \['top', 'low'\].*monte_carlo_kl"
    with pytest.raises(ValueError, match=message):
        pv.analytic_kl((world.model, world.exact_guide_upwards), world.sample(3))


def test_an_auxiliary_site_is_refused():
    world = LinearGaussian()

    def posterior(x):
        q = dist.Normal(world.posterior_mean(x), 1.0).to_event(1)
        u = pyro.sample("u", q, infer={"is_auxiliary": True})
        return pyro.sample("z", dist.Delta(u, event_dim=1))

    vae = world.vae(posterior)
    with pytest.raises(ValueError, match=r"guide samples \['u', 'z'\].*monte_carlo_kl"):
        pv.analytic_kl(vae, world.sample(3))


@pytest.mark.parametrize("event", [(), (6,), (2, 3)])
def test_the_event_axes_of_a_site_are_dimensions(event):
    """KL(N(m, 0.5^2) || N(0, 1)) = log 2 + (0.25 + m^2 - 1) / 2 for each of them."""
    x = torch.arange(24.0).reshape(4, 6)[:, : math.prod(event)].reshape(4, *event)

    def program(loc, scale):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(loc, scale).to_event(len(event)))

    pair = lambda x: program(torch.zeros(event), 1.0), lambda x: program(x, 0.5)  # noqa: E731
    found = dimension_rates(pair, x, particles=2)["z"]
    assert torch.allclose(found, math.log(2) + (0.25 + x.reshape(4, -1) ** 2 - 1) / 2)


def test_sites_in_another_order_have_no_kl_by_dimension():
    def sample(*names):
        for name in names:
            pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def model(x):
        with data_plate(x):
            sample("a", "b")
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with data_plate(x):
            sample("b", "a")

    assert dimension_rates((model, guide), torch.zeros(3), particles=1) == {}


@pytest.mark.parametrize("length", [1.0, 3000.0])
def test_a_long_low_rank_factor_keeps_its_closed_form_in_single_precision(length):
    """At 3000 the covariance, whose condition is 1e9, has no Cholesky factor in float32."""
    loc, factor, diagonal = random(1, 3, 4), length * random(2, 3, 4, 2), random(3, 3, 4).exp()
    q = td.LowRankMultivariateNormal(loc, factor, diagonal)
    covariance = factor @ factor.mT + torch.diag_embed(diagonal)
    shares = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) + loc.square().sum(-1) - 4
    wanted = 0.5 * (shares - torch.logdet(covariance))
    single = td.LowRankMultivariateNormal(loc.float(), factor.float(), diagonal.float())
    prior = td.Independent(td.Normal(torch.zeros(4), 1.0), 1)
    torch.testing.assert_close(closed_form_kl(single, prior).double(), wanted, rtol=1e-5, atol=0)
    full = td.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    torch.testing.assert_close(closed_form_kl(q, full), wanted, rtol=1e-9, atol=0)


def test_each_particle_has_the_divergence_at_its_own_draws():
    """The second site depends on the first, whose draws differ from particle to particle."""

    def model(x):
        with data_plate(x):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(top, 0.7).to_event(1))
            pyro.sample("x", dist.Normal(low, 1.0).to_event(1), obs=x)

    def guide(x):
        with data_plate(x):
            top = pyro.sample("top", dist.Normal(x / 2, 0.8).to_event(1))
            pyro.sample("low", dist.Normal(top.tanh() + x, 0.5).to_event(1))

    pair = TracePair.run(model, guide, random(4, 6, 2).float(), particles=3)
    wanted = sum(
        td.kl_divergence(pair.guide.nodes[name]["fn"], pair.model.nodes[name]["fn"])
        for name in ("top", "low")
    )
    assert not wanted[0].allclose(wanted[1])
    torch.testing.assert_close(kl.pair_kl(pair), wanted)
