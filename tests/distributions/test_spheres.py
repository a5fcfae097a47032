"""The unit sphere: densities against areas, draws, a known posterior, and each other's limits."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from densities import FALSE_ALARM
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.nn.functional import normalize
from worlds import data_plate, random

import pyrovae as pv
from pyrovae.distributions.spheres import PowerSpherical, SphericalUniform, log_area
from pyrovae.guides import PowerSpherical as Guide
from pyrovae.nets import positive, unconstrained
from pyrovae.priors import UniformSphere


def spherical(dimension, concentration, *, dtype=torch.float64):
    pole = normalize(random(7, dimension), dim=-1).to(dtype)
    return PowerSpherical(normalize(pole, dim=-1), torch.tensor(concentration, dtype=dtype))


def uniform(dimension):
    return SphericalUniform(torch.zeros(dimension, dtype=torch.float64))


def circle(n=20001):
    """Return n points on the circle with their arc lengths."""
    angle = torch.linspace(0, 2 * math.pi, n + 1, dtype=torch.float64)[:-1]
    return torch.stack([angle.cos(), angle.sin()], -1), torch.full((n,), 2 * math.pi / n).double()


def ball(n=400):
    """Return points on the sphere in three dimensions with their areas: rings of equal height."""
    height = -1 + (2 * torch.arange(n, dtype=torch.float64) + 1) / n
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    ring = (1 - height.square()).sqrt()
    points = torch.stack(
        [
            height.outer(torch.ones(n)),
            ring.outer(angle.cos()),
            ring.outer(angle.sin()),
        ],
        -1,
    )
    return points.reshape(-1, 3), torch.full((n * n,), 4 * math.pi / n**2, dtype=torch.float64)


GRIDS = {2: circle, 3: ball}
DENSITIES = {
    "uniform": uniform,
    "nearly uniform": lambda d: spherical(d, 0.01),
    "wide": lambda d: spherical(d, 0.7),
    "middle": lambda d: spherical(d, 5.0),
    "narrow": lambda d: spherical(d, 60.0),
}


@pytest.mark.parametrize("dimension", GRIDS)
@pytest.mark.parametrize("name", DENSITIES)
def test_densities_integrate_to_one_and_to_their_entropy_over_the_sphere(name, dimension):
    points, area = GRIDS[dimension]()
    q = DENSITIES[name](dimension)
    log_q = q.log_prob(points)
    # Midpoints: the error is of the order of the second derivatives, times the squared spacing.
    assert float((area * log_q.exp()).sum()) == pytest.approx(1, abs=1e-3)
    if name != "uniform":
        entropy = -float((area * torch.xlogy(log_q.exp(), log_q.exp())).sum())
        assert float(q.entropy()) == pytest.approx(entropy, abs=2e-3)
        mean = (area * log_q.exp()) @ points
        torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("dimension", "area"), [(2, 2), (3, 4), (4, 2 * math.pi), (5, 8 / 3 * math.pi)]
)
def test_areas_are_those_of_geometry(dimension, area):
    assert math.exp(log_area(dimension)) == pytest.approx(area * math.pi, rel=1e-12)


@pytest.mark.parametrize("dimension", [2, 3, 10])
@pytest.mark.parametrize("concentration", [0.3, 4.0, 200.0])
def test_draws_have_the_heights_that_the_density_gives(dimension, concentration):
    """The density of t = mu.x is p(x) times the area of the ring at t."""
    q = spherical(dimension, concentration)
    x = q.sample((20_000,))
    t = x @ q.loc

    # The angle resolves both ends, where the ring's area vanishes or t crowds.
    angle = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    across = normalize(random(8, dimension) - random(8, dimension) @ q.loc * q.loc, dim=-1)
    path = angle.cos()[:, None] * q.loc + angle.sin()[:, None] * across
    ring = log_area(dimension - 1) if dimension > 2 else math.log(2)
    density = (q.log_prob(normalize(path, dim=-1)) + ring).exp() * angle.sin() ** (dimension - 2)
    cdf = torch.cumulative_trapezoid(density, angle)

    def cdf_of_angle(value):
        return cdf.numpy()[(torch.as_tensor(value) / math.pi * 20_000).long().clamp(0, 19_999)]

    test = scipy.stats.kstest(t.clamp(-1, 1).acos().numpy(), cdf_of_angle)
    assert test.pvalue > FALSE_ALARM


@pytest.mark.parametrize("q", [spherical(4, 3.0), uniform(4)], ids=["power spherical", "uniform"])
def test_draws_are_alike_in_every_direction_around_the_pole(q):
    pole = getattr(q, "loc", torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    basis = torch.linalg.qr(torch.cat([pole[:, None], random(9, 4, 3)], 1)).Q
    around = normalize((q.sample((40_000,)) @ basis)[:, 1:], dim=-1)
    # On a sphere in three dimensions each coordinate of a uniform point is uniform on [-1, 1].
    for coordinate in around.T:
        test = scipy.stats.kstest(coordinate.numpy(), scipy.stats.uniform(-1, 2).cdf)
        assert test.pvalue > FALSE_ALARM


@pytest.mark.parametrize("dimension", [2, 3, 8])
def test_uniform_draws_have_the_heights_of_a_beta(dimension):
    x = uniform(dimension).sample((20_000,))
    b = (dimension - 1) / 2
    test = scipy.stats.kstest(((1 + x[:, 0]) / 2).numpy(), scipy.stats.beta(b, b).cdf)
    assert test.pvalue > FALSE_ALARM


@pytest.mark.parametrize("dimension", GRIDS)
def test_gradients_through_draws_are_those_of_the_expectation(dimension):
    """Against the derivative of the integral of f p, by central differences on a grid."""
    direction, raw = random(3, dimension), torch.tensor(3.0, dtype=torch.float64)
    slopes = random(4, 2, dimension)
    points, area = GRIDS[dimension]()

    def q_of(direction, raw):
        return PowerSpherical(normalize(direction, dim=-1), raw)

    def f(x):
        return (x @ slopes[0]).square() + (x @ slopes[1]).exp()

    def expectation(vector):
        log_q = q_of(vector[:-1], vector[-1]).log_prob(points)
        return float((area * log_q.exp() * f(points)).sum())

    vector, step = torch.cat([direction, raw[None]]), 1e-4
    moves = step * torch.eye(dimension + 1, dtype=torch.float64)
    wanted = torch.tensor(
        [(expectation(vector + e) - expectation(vector - e)) / (2 * step) for e in moves]
    ).double()

    n = 200_000
    repeated = vector.expand(n, -1).clone().requires_grad_()
    f(q_of(repeated[:, :-1], repeated[:, -1]).rsample()).sum().backward()
    error = repeated.grad.std(0) / math.sqrt(n)
    assert ((repeated.grad.mean(0) - wanted).abs() < 4 * error + 1e-4).all()
    assert error.norm() < 0.05 * wanted.norm()  # so a gradient lost by a fifth is seen


@pytest.mark.parametrize("dimension", [2, 3, 8, 50])
@pytest.mark.parametrize("concentration", [0.5, 20.0, 1000.0])
def test_entropy_is_the_mean_of_the_negative_log_density(dimension, concentration):
    q = spherical(dimension, concentration)
    log_q = q.log_prob(q.sample((20_000,)))
    error = float(log_q.std()) / math.sqrt(20_000)
    assert float(q.entropy()) == pytest.approx(-float(log_q.mean()), abs=4 * error)


@pytest.mark.parametrize("dimension", [2, 3, 20, 50])
@pytest.mark.parametrize("concentration", [1e-3, 1.0, 1e4])
def test_float32_stays_exact_at_the_extremes(dimension, concentration):
    q = spherical(dimension, concentration, dtype=torch.float32)
    direction = q.loc.expand(4000, -1).clone().requires_grad_()
    kappa = torch.full((4000,), concentration, requires_grad=True)
    x = PowerSpherical(normalize(direction, dim=-1), kappa).rsample()
    assert q.support.check(x).all()

    exact = PowerSpherical(normalize(q.loc.double(), dim=-1), torch.tensor(concentration).double())
    wanted = exact.log_prob(normalize(x.detach().double(), dim=-1))
    # Unit vectors in float32 are off by their rounding, 6e-8 a coordinate: a slope away.
    slope = concentration * (1 - (x.detach() @ q.loc).square()).clamp(min=1e-6).sqrt()
    atol = 1e-4 + float(slope.max()) * 1e-6
    torch.testing.assert_close(q.log_prob(x.detach()).double(), wanted, rtol=1e-5, atol=atol)

    kl = float(torch.distributions.kl_divergence(q, SphericalUniform(torch.zeros(dimension))))
    b = (dimension - 1) / 2
    log_height = scipy.special.digamma(b + concentration) - scipy.special.digamma(
        2 * b + concentration
    )
    weight = scipy.special.betaln(b + concentration, b) - scipy.special.betaln(b, b)
    assert kl == pytest.approx(concentration * log_height - weight, rel=1e-5, abs=1e-7)

    (x.sum() + q.log_prob(x).sum() + PowerSpherical(q.loc, kappa).entropy().sum()).backward()
    assert direction.grad.isfinite().all()
    assert kappa.grad.isfinite().all()


@pytest.mark.parametrize("concentration", [1e-3, 1e4])
def test_float32_draws_at_the_extremes_have_the_mean_of_the_distribution(concentration):
    q = spherical(20, concentration, dtype=torch.float32)
    heights = q.sample((20_000,)).double() @ q.loc.double()
    error = float(heights.std()) / math.sqrt(20_000)
    wanted = concentration / (concentration + 19)
    assert float(heights.mean()) == pytest.approx(wanted, abs=4 * error + 1e-6)


def test_points_at_the_antipode_have_a_finite_density():
    q = spherical(3, 2.0, dtype=torch.float32)
    pole = (-q.loc).requires_grad_()
    log_q = q.log_prob(pole)
    log_q.backward()
    assert log_q.isfinite()
    assert pole.grad.isfinite().all()


def test_two_families_alone_have_a_new_closed_form():
    q, p = spherical(3, 2.0), uniform(3)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), log_area(3) - q.entropy())
    normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    for other in (normal, spherical(3, 1.0)):
        with pytest.raises(NotImplementedError):
            torch.distributions.kl_divergence(q, other)


class Compass:
    """z uniform on a sphere; of m coins, each falls heads with probability h = (1 + pole.z) / 2.

    Given that all fall heads, the posterior is power-spherical with concentration m, exactly, and
    the evidence is the mean of h^m, where h follows Beta(b, b).
    """

    def __init__(self, dimension, coins):
        self.pole = normalize(random(5, dimension), dim=-1)
        self.prior = UniformSphere(dimension).double()
        self.x = torch.ones(6, coins, dtype=torch.float64)
        b = (dimension - 1) / 2
        self.log_evidence = scipy.special.betaln(b + coins, b) - scipy.special.betaln(b, b)

    def likelihood(self, z, x=None):
        heads = ((1 + (z * self.pole).sum(-1, keepdim=True)) / 2).clamp(1e-12, 1 - 1e-12)
        coins = dist.Bernoulli(heads).expand([*heads.shape[:-1], self.x.shape[-1]])
        return pyro.sample("x", coins.to_event(1), obs=x)

    def vae(self, concentration):
        guide = Guide(
            Always(
                torch.cat([3 * self.pole, unconstrained(torch.tensor([concentration]).double())])
            )
        )
        return pv.VAE(self.prior, self.likelihood, guide)


class Always(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.register_buffer("output", output)

    def forward(self, x):
        return self.output.expand(*x.shape[:-1], -1)


@pytest.mark.parametrize("dimension", [2, 3, 6])
def test_the_exact_posterior_on_the_sphere_gives_the_evidence_as_every_weight(dimension):
    world = Compass(dimension, coins=4)
    vae = world.vae(4.0)
    log_w = pv.log_weights(vae, world.x, particles=50)
    wanted = torch.full((50, 6), world.log_evidence, dtype=torch.float64)
    torch.testing.assert_close(log_w, wanted, rtol=0, atol=1e-6)


def test_another_concentration_loses_its_divergence_and_no_more():
    world = Compass(3, coins=4)
    vae = world.vae(1.5)
    log_w = pv.log_weights(vae, world.x, particles=4000)
    # KL(q || posterior), the mean of log q - log p under q, with h ~ Beta(b + kappa, b), b = 1.
    log_height = scipy.special.digamma(2.5) - scipy.special.digamma(3.5)
    gap = (1.5 - 4) * log_height - math.log(1 / 2.5) + math.log(1 / 5)
    error = float(log_w.std()) / math.sqrt(log_w.numel())
    assert float(log_w.mean()) == pytest.approx(world.log_evidence - gap, abs=4 * error)


def test_the_closed_form_reaches_the_objectives():
    world = Compass(4, coins=3)
    vae = world.vae(2.0)
    q = PowerSpherical(world.pole, torch.tensor(2.0).double())
    kl = float(log_area(4) - q.entropy())
    found = pv.analytic_kl(vae, world.x)
    torch.testing.assert_close(found, torch.full((6,), kl).double(), rtol=1e-6, atol=0)
    pyro.set_rng_seed(3)
    terms = pv.log_weight_terms(vae, world.x, particles=1)
    pyro.set_rng_seed(3)
    loss = TraceMeanField_ELBO(num_particles=1, vectorize_particles=True)
    loss.max_plate_nesting = 1
    assert loss.loss(vae.model, vae.guide, world.x) == pytest.approx(
        6 * kl - float(terms.log_likelihood.sum()), rel=1e-6
    )


def test_the_guide_reads_a_direction_of_any_length_and_a_concentration():
    q = Guide(nn.Identity()).distribution(random(0, 5, 4))
    torch.testing.assert_close(q.loc, normalize(random(0, 5, 4)[:, :3], dim=-1))
    torch.testing.assert_close(q.concentration, positive(random(0, 5, 4)[:, 3]))
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))


@pytest.mark.parametrize("make", [uniform, lambda d: spherical(d, 2.0)])
def test_expanding_repeats_the_distribution_and_draws_anew(make):
    q = make(3)
    wide = q.expand(torch.Size([4, 5]))
    x = wide.rsample((2,))
    assert x.shape == (2, 4, 5, 3)
    assert len(x.reshape(-1, 3).unique(dim=0)) == 40
    torch.testing.assert_close(wide.log_prob(x), q.log_prob(x))


@pytest.mark.parametrize("make", [uniform, lambda d: spherical(d, 2.0)])
def test_points_off_the_sphere_are_refused(make):
    with pytest.raises(ValueError, match="support"):
        make(3).log_prob(torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("latents", [1, 0, -2])
def test_a_sphere_of_fewer_than_two_coordinates_is_refused(latents):
    with pytest.raises(ValueError, match=f"UniformSphere.*at least two.*got {latents}"):
        UniformSphere(latents)


def test_a_network_without_a_direction_is_refused():
    with pytest.raises(ValueError, match=r"PowerSpherical.*D \+ 1 outputs.*got 2"):
        Guide(nn.Identity()).distribution(torch.zeros(3, 2))


def test_draws_on_the_sphere_come_in_particles_and_data():
    vae = Compass(3, coins=2).vae(1.0)
    with (
        pyro.poutine.trace() as tape,
        pyro.plate("particles", 4, dim=-2),
        data_plate(torch.ones(6, 2)),
    ):
        vae.prior()
        site = tape.trace.nodes["z"]
    assert site["fn"].batch_shape == (4, 6)
    assert len(site["value"].reshape(-1, 3).unique(dim=0)) == 24
