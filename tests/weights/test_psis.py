"""The shape of a tail, against tails that are known; smoothed weights, against log p."""

import math

import pyro.ops.stats
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import LinearGaussian, random

from pyrovae.weights import bounds
from pyrovae.weights import psis as pareto
from pyrovae.weights.log_weights import log_weights
from pyrovae.weights.psis import pareto_k

REPETITIONS = 1000
"""A share of 95% has a standard error of 0.7% here: 92 to 98% is more than 4 of them."""


def generalized_pareto(k, rows, columns, seed=0):
    """Draw the logarithms of generalized Pareto numbers of scale 1, shape k, over 0."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return (torch.expm1(-k * u.log()) / k).log()


def normal_ratio(scale, rows, columns, seed=0):
    """Draw log-ratios of N(0, 1) to a proposal N(0, scale^2)."""
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    target = torch.distributions.Normal(0.0, 1.0)
    return target.log_prob(z) - torch.distributions.Normal(0.0, scale).log_prob(z)


def unshrunk(k, particles):
    """Undo the prior on k: what ten weights at 1/2 have drawn it by."""
    size = pareto.tail_size(particles)
    return (k * (size + 10) - 5) / size


class TestShape:
    @pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0, 1.5])
    def test_of_an_exact_pareto_distribution_is_found(self, k):
        """The excess of a Pareto tail over any threshold has its own k.

        Zhang and Stephens's estimate has bias and variance of the order 1/M; the largest
        likelihood's variance is (1 + k)^2 / M (Smith, 1987).
        """
        particles, size = 10_000, pareto.tail_size(10_000)
        found = unshrunk(pareto.pareto_k(generalized_pareto(k, particles, 300)), particles)
        asymptotic = (1 + k) / math.sqrt(size)
        assert abs(found.mean() - k) < 4 * asymptotic / math.sqrt(300) + 2 / size
        # The spread of 300 estimates tells their standard deviation to 4%; Zhang and Stephens's
        # prior takes some of it away.
        assert 0.8 * asymptotic < found.std() < 1.2 * asymptotic

    @pytest.mark.parametrize("scale", [0.5, 0.7])
    def test_of_a_proposal_that_is_too_narrow_is_that_of_its_ratios(self, scale):
        """N(0, 1) over N(0, s^2), s < 1: log w = a + b z^2, b = (1 - s^2) / (2 s^2), z / s normal.

        So P(log w > t) ~ exp(-(t / b) / (2 s^2)), up to a power of t: w has a Pareto tail with
        k = 2 s^2 b = 1 - s^2. The power, t^(-1/2), makes the excess over a threshold at the
        upper share q lighter than that by a factor near 1 - 1 / (2 log(1/q)); this share, M / K,
        is 1% here.
        """
        share = pareto.tail_size(100_000) / 100_000
        found = unshrunk(pareto.pareto_k(normal_ratio(scale, 100_000, 50)), 100_000).mean()
        limit = 1 - scale**2
        assert limit * (1 - 1 / math.log(1 / share)) < found < limit

    def test_of_a_wide_proposal_is_below_zero_and_weights_are_bounded(self):
        found = unshrunk(pareto.pareto_k(normal_ratio(1.5, 10_000, 20)), 10_000)
        assert found.max() < 0

    def test_is_pyros_fit_of_each_tail(self):
        log_w = random(0, 500, 4)
        weights = log_w.exp().sort(0).values
        size = pareto.tail_size(500)
        wanted = [
            pyro.ops.stats.fit_generalized_pareto(column[-size:] - column[-size - 1])[0]
            for column in weights.T
        ]
        torch.testing.assert_close(pareto.pareto_k(log_w), torch.tensor(wanted).double())

    def test_is_drawn_to_a_half_by_ten_weights(self):
        """Five weights of a tail with k = -5 / 5: the prior is (M k + 5) / (M + 10)."""
        excess = generalized_pareto(0.9, 20, 1).exp().flatten()
        size, drawn = 20, pyro.ops.stats.fit_generalized_pareto(excess)[0]
        # Zhang and Stephens, 2009: their posterior mean of b, by the formulas of the paper.
        x = excess.sort().values
        i = torch.arange(1, 30 + int(size**0.5) + 1).double()
        b = 1 / x[-1] + (1 - (len(i) / (i - 0.5)).sqrt()) / (3 * x[int(size / 4 - 0.5)])
        shape = torch.log1p(-b[:, None] * x).mean(1)
        likelihood = size * ((-b / shape).log() - shape - 1)
        k = torch.log1p(-(b * likelihood.softmax(0)).sum() * x).mean().item()
        assert drawn == pytest.approx((size * k + 5) / (size + 10), rel=1e-9)

    def test_ignores_the_size_and_the_order_of_the_weights(self):
        log_w = random(1, 300, 3)
        shuffled = log_w[torch.randperm(300)] - 700.0
        torch.testing.assert_close(
            pareto.pareto_k(shuffled), pareto.pareto_k(log_w), rtol=0, atol=1e-9
        )

    def test_is_that_of_the_other_precision(self):
        log_w = random(2, 1000, 3) - 90
        found = pareto.pareto_k(log_w.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), pareto.pareto_k(log_w), rtol=0, atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_of_equal_weights_up_to_rounding_is_minus_infinity(self, dtype):
        eps = torch.finfo(dtype).eps
        log_w = (-123.4 * (1 + 5 * eps * random(3, 200, 2))).to(dtype)
        assert (pareto.pareto_k(log_w) == -math.inf).all()
        assert torch.equal(pareto.smoothed(log_w), log_w)

    @pytest.mark.parametrize("positive", [0, 1, 4])
    def test_of_a_few_weights_among_zeros_is_infinity(self, positive):
        log_w = torch.full((100, 1), -math.inf)
        log_w[:positive] = torch.arange(positive).float()[:, None]
        assert pareto.pareto_k(log_w).item() == math.inf
        assert torch.equal(pareto.smoothed(log_w), log_w)

    def test_of_weights_with_zeros_among_them_is_that_of_the_others(self):
        log_w = random(4, 1000, 1)
        with_zeros = log_w.clone()
        with_zeros[log_w < log_w.median()] = -math.inf
        torch.testing.assert_close(pareto.pareto_k(with_zeros), pareto.pareto_k(log_w))

    def test_of_two_values_is_minus_infinity_and_neither_is_smoothed(self):
        """A discrete latent has few weights: what stands out is a value, not a tail."""
        log_w = torch.zeros(1000, 1)
        log_w[:60] = 1.0
        assert pareto.pareto_k(log_w).item() == -math.inf
        assert torch.equal(pareto.smoothed(log_w), log_w)

    @pytest.mark.parametrize(("particles", "known"), [(1, False), (20, False), (21, True)])
    def test_is_not_known_of_fewer_than_21_particles(self, particles, known):
        log_w = random(5, particles, 2)
        assert pareto.pareto_k(log_w).isfinite().tolist() == [known] * 2
        assert known or torch.equal(pareto.smoothed(log_w), log_w)
        assert (pareto.tail_size(particles) >= pareto.SHORTEST) == known

    @given(seed=st.integers(0, 10_000), spread=st.sampled_from([1e-8, 0.1, 3.0, 300.0, 1e5]))
    def test_is_never_nan(self, seed, spread):
        log_w = spread * random(seed, 64, 3) - 1e3
        smoothed, k = pareto.psis(log_w)
        assert not k.isnan().any()
        assert not smoothed.isnan().any()

    @pytest.mark.parametrize("shape", [(), (5,), (0, 3)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"shape \[K particles, N data\] with K >= 1; got \("):
            pareto.pareto_k(torch.zeros(shape))


def zhang_stephens(excess):
    """Fit a generalized Pareto distribution to rising numbers, by the paper's section 3.

    With b = k / sigma, a profile of the likelihood on a grid weighs b; the prior on k is that of
    Vehtari et al., ten weights at 1/2.
    """
    n = len(excess)
    m = 30 + math.floor(math.sqrt(n))
    quartile = excess[math.floor(n / 4 + 0.5) - 1]
    theta = [
        1 / excess[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)
    ]

    def shape(t):
        return sum(math.log1p(-t * value) for value in excess) / n

    profile = [n * (math.log(-t / shape(t)) - shape(t) - 1) for t in theta]
    weights = [1 / sum(math.exp(other - own) for other in profile) for own in profile]
    mean = sum(weight * t for weight, t in zip(weights, theta, strict=True))
    k = shape(mean)
    return (n * k + 5) / (n + 10), -k / mean


def by_the_paper(log_w):
    """Smooth a list of log-weights: Vehtari et al., 2024, section 2.2, step by step."""
    largest = max(log_w)
    weights = [math.exp(value - largest) for value in log_w]
    order = sorted(range(len(weights)), key=weights.__getitem__)
    size = math.ceil(min(0.2 * len(weights), 3 * math.sqrt(len(weights))))
    cut = weights[order[-size - 1]]
    k, sigma = zhang_stephens([weights[i] - cut for i in order[-size:]])
    for z, i in enumerate(order[-size:], start=1):
        quantile = cut + sigma * ((1 - (z - 0.5) / size) ** -k - 1) / k
        weights[i] = min(quantile, 1.0)
    return [math.log(weight) + largest for weight in weights], k


@pytest.mark.parametrize("particles", [25, 200, 3000])
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_weights_and_shape_are_those_of_the_paper_written_out(particles, spread):
    """The paper takes sigma from the k before the prior; neither Pyro nor the library is asked."""
    log_w = spread * random(11, particles, 2) - 40
    smoothed, k = pareto.psis(log_w)
    for column in range(2):
        wanted, shape = by_the_paper(log_w[:, column].tolist())
        assert k[column].item() == pytest.approx(shape, rel=1e-9)
        torch.testing.assert_close(smoothed[:, column], torch.tensor(wanted).double())


class TestSmoothed:
    @given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 1.0, 5.0]))
    def test_all_but_the_tail_stay_and_the_order_is_kept(self, seed, spread):
        log_w = spread * random(seed, 200, 3)
        found, size = pareto.smoothed(log_w), pareto.tail_size(200)
        order = log_w.argsort(0)
        assert torch.equal(found.gather(0, order[:-size]), log_w.gather(0, order[:-size]))
        rising = found.gather(0, order).diff(dim=0)
        assert (rising >= -1e-12).all()
        assert (found.amax(0) <= log_w.amax(0)).all()

    def test_a_tail_becomes_the_quantiles_of_its_fit(self):
        log_w = random(6, 400, 1)
        size = pareto.tail_size(400)
        weights = log_w.exp().flatten().sort().values
        k, sigma = pyro.ops.stats.fit_generalized_pareto(weights[-size:] - weights[-size - 1])
        levels = (torch.arange(size).double() + 0.5) / size
        quantiles = sigma / k * ((1 - levels) ** -k - 1) + weights[-size - 1]
        wanted = quantiles.clamp(max=float(weights[-1]))
        found = pareto.smoothed(log_w).exp().flatten().sort().values
        torch.testing.assert_close(found[-size:], wanted)

    def test_log_p_is_nearer_to_the_truth_than_from_the_raw_weights(self):
        """N(0, 1) over N(0, 0.7^2), k = 0.51, where log p = 0: 4,000 repetitions."""
        log_w = normal_ratio(0.7, 100, 4000)
        plain, smooth = bounds.log_mean_exp(log_w), bounds.log_mean_exp(pareto.smoothed(log_w))
        gain = plain.square() - smooth.square()
        assert gain.mean() > 4 * gain.std() / math.sqrt(4000)
        assert smooth.square().mean().sqrt() < 0.9 * plain.square().mean().sqrt()


def off_weights(data, particles):
    """Return log-weights of the off guide and the log-evidence of each datum."""
    world = LinearGaussian()
    x = world.sample(data)
    log_w = log_weights((world.model, world.off_guide), x, particles=particles)
    return log_w, world.log_evidence(x)


def share_covered(estimate, truth):
    return ((estimate.value - truth).abs() <= 1.96 * estimate.standard_error).double().mean()


@pytest.mark.parametrize(
    "estimate",
    [lambda log_w: bounds.iwae_estimate(pareto.smoothed(log_w)), bounds.extrapolated_estimate],
    ids=["PSIS", "extrapolated"],
)
def test_the_error_over_particles_covers_log_p(estimate):
    log_w, log_evidence = off_weights(REPETITIONS, 500)
    assert 0.92 <= share_covered(estimate(log_w), log_evidence) <= 0.98


@pytest.mark.parametrize(
    "estimate",
    [lambda log_w: bounds.iwae_estimate(pareto.smoothed(log_w)), bounds.extrapolated_estimate],
    ids=["PSIS", "extrapolated"],
)
def test_the_error_over_data_covers_the_mean_of_log_p(estimate):
    """A share of 95% in 400 repetitions has a standard error of 1.1%."""
    log_w, _ = off_weights(400 * 40, 64)
    truth = -float(LinearGaussian().marginal.entropy())
    values = estimate(log_w).value.reshape(400, 40)
    error = values.std(1) / math.sqrt(40)
    inside = ((values.mean(1) - truth).abs() <= 1.96 * error).double().mean()
    assert 0.92 <= inside <= 0.98


class TestExtrapolated:
    def test_is_the_jackknife_of_the_bounds_written_out(self):
        log_w = 2 * random(7, 12, 3)
        without = [bounds.log_mean_exp(torch.cat([log_w[:i], log_w[i + 1 :]])) for i in range(12)]
        values = 12 * bounds.log_mean_exp(log_w) - 11 * torch.stack(without)
        found = bounds.extrapolated_estimate(log_w)
        torch.testing.assert_close(found.value, values.mean(0))
        torch.testing.assert_close(found.standard_error, values.std(0) / math.sqrt(12))

    def test_holds_where_one_particle_has_all_the_weight_that_can_be_told(self):
        """1 less the largest share is 0 in floating point, but not its logarithm."""
        log_w = torch.tensor([[0.0], [-50.0], [-51.0]]).double()
        rest = math.log(math.exp(-50) + math.exp(-51))
        left = torch.tensor([rest, math.log1p(math.exp(-51)), math.log1p(math.exp(-50))])
        wanted = -3 * math.log(3) - 2 * (left.double() - math.log(2)).mean()
        found = bounds.extrapolated_estimate(log_w).value
        torch.testing.assert_close(found, wanted.reshape(1), rtol=0, atol=1e-5)

    def test_is_not_known_where_a_single_particle_fits(self):
        """Without that particle the bound is minus infinity, and the estimate plus infinity."""
        log_w = torch.tensor([[-1.0, -1.0], [-math.inf, -2.0], [-math.inf, -math.inf]]).double()
        found = bounds.extrapolated_estimate(log_w).value
        assert found.isnan().tolist() == [True, False]

    def test_takes_the_bias_of_order_one_over_k_away(self):
        """At K = 10 the bound is low by nats that are seen; what the jackknife leaves is a fifth.

        The gap is Var(w) / (2 K p^2) + O(1/K^2) (Domke, Sheldon, 2018).
        """
        log_w, log_evidence = off_weights(100_000, 10)
        plain = bounds.iwae_estimate(log_w).value - log_evidence
        found = bounds.extrapolated_estimate(log_w).value - log_evidence
        errors = [float(gap.std()) / math.sqrt(len(gap)) for gap in (plain, found)]
        assert plain.mean() < -20 * errors[0]
        assert abs(found.mean()) < abs(plain.mean()) / 5 + 4 * errors[1]

    def test_equal_weights_leave_log_p_and_no_error(self):
        found = bounds.extrapolated_estimate(torch.full((30, 2), -5.5).double())
        torch.testing.assert_close(found.value, torch.full((2,), -5.5).double())
        assert (found.standard_error < 1e-10).all()

    def test_one_particle_is_refused(self):
        with pytest.raises(ValueError, match="leaves one particle out of two or more; got one"):
            bounds.extrapolated_estimate(random(0, 1, 3))


def test_a_tail_that_is_flat_up_to_rounding_has_no_shape():
    """Log-weights about zero, in single precision, that differ by roundings of 1."""
    assert pareto_k(1e-7 * torch.randn(1000, 1)).item() == -math.inf


@pytest.mark.parametrize(
    ("particles", "wanted"),
    [
        (21, 0.2437),
        (50, 0.4114),
        (100, 0.5),
        (1000, 2 / 3),
        (2154, 0.69999),
        (2155, 0.7),
        (10**6, 0.7),
    ],
)
def test_the_limit_is_that_of_the_paper(particles, wanted):
    assert pareto.limit(particles) == pytest.approx(wanted, abs=1e-4)


def test_what_is_not_known_of_a_tail_is_not_beyond_the_limit():
    shapes = torch.tensor([math.nan, -math.inf, 0.49, 0.51, 0.69, 0.71, math.inf])
    assert pareto.beyond(shapes, 100).tolist() == [False, False, False, True, True, True, True]
    assert pareto.beyond(shapes, 5000).tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize("shape", [0.3, 0.5, 0.6, 0.69, 0.7])
def test_so_many_particles_do_and_no_fewer(shape):
    needed = pareto.particles_for(shape)
    assert pareto.limit(needed) >= shape - 1e-12
    assert pareto.limit(needed - 1) < shape


def test_no_number_of_particles_does_above_the_largest_limit():
    with pytest.raises(ValueError, match="no number of particles is enough .* got 0.8"):
        pareto.particles_for(0.8)


def test_one_particle_has_no_limit():
    with pytest.raises(ValueError, match="two particles or more; got particles=1"):
        pareto.limit(1)
