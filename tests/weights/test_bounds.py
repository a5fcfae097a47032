"""Reductions of log-weights, against loops, exact inequalities and a world that is known."""

import ast
import functools
import inspect
import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import LinearGaussian, random

from pyrovae.weights import bounds, estimates
from pyrovae.weights.bounds import Estimate
from pyrovae.weights.log_weights import log_weights


@st.composite
def log_weight_tensors(draw):
    rows, columns = draw(st.integers(1, 33)), draw(st.integers(1, 4))
    spread, offset = draw(st.sampled_from([0.0, 1.0, 300.0])), draw(st.sampled_from([0.0, -1e4]))
    return spread * random(draw(st.integers(0, 10_000)), rows, columns) + offset


def imported(module):
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    plain = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]


def test_bounds_and_estimates_import_torch_scipy_and_the_standard_library_alone():
    names = {*imported(bounds), *imported(estimates)} - {"pyrovae.weights.estimates"}
    assert {name.split(".")[0] for name in names} == {
        "__future__", "collections", "dataclasses", "math", "scipy", "torch", "typing",
    }  # fmt: skip
    assert "pyrovae.weights.estimates" not in imported(estimates)


def test_elbo_is_the_mean_over_particles():
    log_w = random(0, 5, 3)
    torch.testing.assert_close(bounds.elbo(log_w), sum(log_w) / 5)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_iwae_is_the_mean_over_disjoint_groups_of_k(k):
    log_w = random(0, 7, 3)
    groups = [log_w[i * k : (i + 1) * k].exp().mean(0).log() for i in range(7 // k)]
    torch.testing.assert_close(bounds.iwae(log_w, k), torch.stack(groups).mean(0))


def test_iwae_at_one_is_the_elbo_and_at_all_particles_the_log_mean_exp():
    log_w = random(0, 7, 3)
    torch.testing.assert_close(bounds.iwae(log_w, 1), bounds.elbo(log_w))
    torch.testing.assert_close(bounds.iwae(log_w), bounds.log_mean_exp(log_w), rtol=0, atol=0)
    torch.testing.assert_close(bounds.iwae(log_w, 7), bounds.log_mean_exp(log_w), rtol=0, atol=0)


@given(random_seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 2.0, 50.0]))
def test_iwae_never_falls_from_k_to_a_multiple_of_k_on_the_same_weights(random_seed, spread):
    # The logarithm is concave, so this holds sample by sample, up to rounding.
    log_w = spread * random(random_seed, 24, 3)
    values = [bounds.iwae(log_w, k) for k in (1, 2, 4, 8, 24)]
    for smaller, larger in zip(values[:-1], values[1:], strict=True):
        assert (larger >= smaller - 1e-12 * (1 + smaller.abs())).all()
    assert (values[-1] <= log_w.max(0).values).all()


@given(log_w=log_weight_tensors(), size=st.integers(1, 40))
def test_streaming_equals_the_whole_however_it_is_cut(log_w, size):
    streamed = bounds.streaming_log_mean_exp(iter(log_w.split(size)))
    torch.testing.assert_close(streamed, bounds.log_mean_exp(log_w), rtol=1e-12, atol=1e-12)


def test_a_weight_of_zero_counts_as_a_particle():
    log_w = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64)
    wanted = torch.tensor([-math.log(2), -math.inf], dtype=torch.float64)
    torch.testing.assert_close(bounds.log_mean_exp(log_w), wanted)
    torch.testing.assert_close(bounds.streaming_log_mean_exp(log_w.split(1)), wanted)


@given(log_w=log_weight_tensors())
def test_effective_sample_size_lies_between_one_and_all_and_ignores_a_constant(log_w):
    size = bounds.effective_sample_size(log_w)
    # Weights near -1e4 carry an absolute rounding error of about 1e-12, and so do their sums.
    assert (size >= 1 - 1e-10).all()
    assert (size <= len(log_w) * (1 + 1e-10)).all()
    torch.testing.assert_close(bounds.effective_sample_size(log_w + 7.0), size, rtol=1e-10, atol=0)


def test_effective_sample_size_of_weights_one_to_four_is_kishs():
    weights = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    wanted = torch.tensor([100 / 30], dtype=torch.float64)
    torch.testing.assert_close(bounds.effective_sample_size(weights.log()), wanted)


def test_errors_are_the_standard_errors_of_their_means():
    log_w = random(0, 12, 5)
    estimate = bounds.elbo_estimate(log_w)
    torch.testing.assert_close(estimate.value, log_w.mean(0))
    torch.testing.assert_close(estimate.standard_error, log_w.std(0) / math.sqrt(12))
    assert estimate.mean == pytest.approx(float(log_w.mean()))
    half = scipy.stats.t.ppf(0.975, 4) * float(log_w.mean(0).std()) / math.sqrt(5)
    assert 1.96 * estimate.error_over_data == pytest.approx(half)
    variances = log_w.var(0) / 12
    assert estimate.error_over_particles == pytest.approx(float(variances.sum()) ** 0.5 / 5)


def test_the_error_of_iwae_is_that_of_its_groups():
    log_w = random(0, 12, 5)
    groups = log_w.reshape(4, 3, 5).exp().mean(1).log()
    estimate = bounds.iwae_estimate(log_w, 3)
    torch.testing.assert_close(estimate.value, groups.mean(0))
    torch.testing.assert_close(estimate.standard_error, groups.std(0) / 2)


def test_the_error_of_one_group_is_the_jackknifes():
    log_w = random(0, 12, 5)
    left = [torch.cat([log_w[:i], log_w[i + 1 :]]).exp().mean(0).log() for i in range(12)]
    wanted = torch.stack(left).std(0) * 11 / math.sqrt(12)
    torch.testing.assert_close(bounds.iwae_estimate(log_w).standard_error, wanted)
    torch.testing.assert_close(bounds.iwae_estimate(log_w, 12).standard_error, wanted)


@pytest.mark.parametrize("level", [-1e4, -1e6, -1e7])
def test_size_and_errors_of_single_precision_do_not_depend_on_the_level_of_log_p(level):
    """Weights that single precision holds exactly have the numbers of double precision.

    Only the values themselves are rounded: near -1e7 neighbors in single precision are 1 apart.
    """
    log_w = torch.randint(-6, 1, (100, 50), generator=torch.Generator().manual_seed(0)) + level
    single, double = log_w.float(), log_w.double()
    sizes = [bounds.effective_sample_size(each).double() for each in (single, double)]
    torch.testing.assert_close(*sizes, rtol=1e-4, atol=0)
    of_groups = functools.partial(bounds.iwae_estimate, k=20)
    for estimate in (bounds.iwae_estimate, of_groups, bounds.extrapolated_estimate):
        found, wanted = estimate(single), estimate(double)
        torch.testing.assert_close(
            found.standard_error.double(), wanted.standard_error, rtol=1e-3, atol=0
        )
        spacing = abs(level) * torch.finfo(torch.float32).eps
        torch.testing.assert_close(found.value.double(), wanted.value, rtol=0, atol=2 * spacing)


@pytest.mark.parametrize("particles", [2, 3, 10, 30])
def test_equal_weights_leave_no_error(particles):
    log_w = torch.full((particles, 2), -5.4136, dtype=torch.float64)
    error = bounds.iwae_estimate(log_w).standard_error
    # Rounding of float64, not its square root.
    torch.testing.assert_close(error, torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_one_group_that_leaves_rows_over_uses_only_its_own_rows():
    log_w = random(0, 9, 2)
    estimate, own = bounds.iwae_estimate(log_w, 6), bounds.iwae_estimate(log_w[:6])
    torch.testing.assert_close(estimate.value, own.value)
    torch.testing.assert_close(estimate.standard_error, own.standard_error)


@pytest.mark.parametrize("estimate", [bounds.elbo_estimate, bounds.iwae_estimate])
def test_one_particle_cannot_tell_its_error(estimate):
    found = estimate(random(0, 1, 3))
    torch.testing.assert_close(found.value, random(0, 1, 3)[0])
    assert found.standard_error.isnan().all()
    assert math.isnan(found.error_over_particles)


def test_one_datum_cannot_tell_the_error_over_data():
    estimate = bounds.elbo_estimate(random(0, 8, 1))
    assert math.isnan(estimate.error_over_data)
    assert estimate.error_over_particles > 0


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_outside_one_to_all_particles_is_refused(k):
    with pytest.raises(ValueError, match=rf"1 <= k <= K; got k = {k} with K = 4.*more particles"):
        bounds.iwae(random(0, 4, 2), k)
    with pytest.raises(ValueError, match=rf"got k = {k} with K = 4"):
        bounds.iwae_estimate(random(0, 4, 2), k)


REDUCTIONS = [
    bounds.elbo, bounds.elbo_estimate, bounds.iwae, bounds.iwae_estimate,
    bounds.log_mean_exp, bounds.effective_sample_size,
]  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_no_particles_are_refused(reduction, shape):
    with pytest.raises(ValueError, match=r"shape \[K particles, N data\] with K >= 1; got \("):
        reduction(torch.zeros(shape))


def test_an_empty_stream_is_refused():
    with pytest.raises(ValueError, match="at least one chunk of log-weights; got none"):
        bounds.streaming_log_mean_exp([])


def test_gradients_flow_through_iwae_as_normalized_weights():
    log_w = random(0, 6, 2).requires_grad_()
    bounds.iwae(log_w).sum().backward()
    torch.testing.assert_close(log_w.grad, log_w.detach().softmax(0))


def test_the_bound_rises_with_k_to_the_log_evidence():
    world = LinearGaussian(shift=0.4)
    x = world.sample(1)
    log_w = log_weights((world.model, world.off_guide), x, particles=2**17)
    found = [bounds.iwae_estimate(log_w, k) for k in (1, 2, 4, 16, 128)]
    # Each rise is seen: above 4 standard errors of the difference (bounded by the errors' sum).
    for smaller, larger in zip(found[:-1], found[1:], strict=True):
        errors = smaller.error_over_particles + larger.error_over_particles
        assert larger.mean - smaller.mean > 4 * errors
    # The gap tends to Var(w) / (2 k p^2) (Domke, Sheldon, 2018); twice that bounds what follows.
    gap = float(world.log_evidence(x)) - found[-1].mean
    relative_variance = 2**17 / float(bounds.effective_sample_size(log_w)) - 1
    assert -4 * found[-1].error_over_particles < gap
    assert gap < relative_variance / 128 + 4 * found[-1].error_over_particles


REPETITIONS = 1000
"""A share of 95% has a standard error of 0.7% here: 92 to 98% is more than 4 of them."""


SKEWED = {(1.0, 2): 0.82, (1.5, 10): 0.85, (2.0, 10): 0.76, (1.5, 100): 0.87, (2.0, 100): 0.80}
"""What 95% intervals by the delta method cover, by the scale of log-weights and their number."""


@pytest.mark.parametrize(("scale", "k"), SKEWED)
def test_the_error_over_particles_of_one_skewed_group_is_honest(scale, k):
    """Of 20 data 1,000 times; the true bound is known to a tenth of the error of one mean.

    The jackknife is near 95% and errs to the side of caution; a share has an error of 0.7%.
    """
    normal = torch.Generator().manual_seed(k)
    draws = [
        scale * torch.randn(k, 20_000, generator=normal, dtype=torch.float64) for _ in range(50)
    ]
    values = torch.cat([bounds.log_mean_exp(part) for part in draws])
    found = bounds.iwae_estimate(draws[0])
    estimates = [
        Estimate(value, error)
        for value, error in zip(found.value.split(20), found.standard_error.split(20), strict=True)
    ]
    error = float(values.std()) / math.sqrt(len(values))
    assert error < 0.1 * float(found.value.std()) / math.sqrt(20)
    assert 0.9 <= covered(estimates, float(values.mean()), "error_over_particles") <= 0.98


@pytest.mark.parametrize("particles", [2, 5])
def test_a_bound_that_rests_on_one_particle_has_no_error(particles):
    log_w = torch.full((particles, 1), -math.inf)
    log_w[0] = -1.0
    found = bounds.iwae_estimate(log_w)
    assert found.value.isfinite().all()
    assert found.standard_error.isnan().all()


@pytest.mark.parametrize("count", [2, 3, 5, 30, 297, 10_000])
def test_few_data_are_held_to_student(count):
    wanted = scipy.stats.t.ppf(0.975, count - 1) / 1.96
    assert bounds.students_factor(count) == pytest.approx(wanted)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_error_over_few_data_is_honest(count):
    """Of normal data Student's interval is exact; the normal's holds 70, 81, 88 and 92 of 100."""
    sets = random(count, 4000, count)
    estimates = [Estimate(row, torch.zeros(count)) for row in sets]
    # Four standard errors of a share of 95%, from 4,000 sets.
    assert abs(covered(estimates, 0.0, "error_over_data") - 0.95) < 4 * math.sqrt(
        0.95 * 0.05 / 4000
    )


def test_student_takes_two_data():
    with pytest.raises(ValueError, match="two data or more; got 1"):
        bounds.students_factor(1)


def test_a_difference_of_what_shares_its_draws_has_the_sum_of_errors():
    """The worst case is met: one estimate falls by what the other rises."""
    shared = random(0, 50, 2000)
    up, down = (bounds.mean_estimate(sign * shared) for sign in (1, -1))
    truth = (up.value - down.value).std()
    told = bounds.difference(up, down, independent=False).standard_error.mean()
    assert abs(told / truth - 1) < 4 / math.sqrt(2 * 2000)
    assert bounds.difference(up, down, independent=True).standard_error.mean() < 0.8 * truth


def test_a_difference_of_what_shares_no_draws_has_the_root_of_squares():
    one, other = (bounds.mean_estimate(random(seed, 50, 2000)) for seed in (1, 2))
    truth = (one.value - other.value).std()
    told = bounds.difference(one, other, independent=True).standard_error
    assert abs(told.square().mean().sqrt() / truth - 1) < 4 / math.sqrt(2 * 2000)


def test_a_difference_of_other_data_is_refused():
    one, other = (bounds.mean_estimate(random(0, 4, n)) for n in (2, 3))
    with pytest.raises(ValueError, match="of the same data; got 2 and 3"):
        bounds.difference(one, other, independent=True)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ([-1.0] * 500, [0.1] * 500, "mean -1.000 ± 0.000 over data, ± 0.004 over particles"),
        ([-1.0] * 500, [math.nan] * 500, "mean -1.000 ± 0.000 over data, 500 data"),
        ([-1.0], [0.5], "mean -1.000 ± 0.500 over particles, 1 data"),
        ([-1.0], [math.nan], "Estimate(mean -1.000, 1 data)"),
    ],
)
def test_an_estimate_is_told_in_one_line(value, error, said):
    text = str(Estimate(torch.tensor(value), torch.tensor(error)))
    assert said in text
    assert "\n" not in text
    assert len(text) < 99


def covered(estimates, truth, error):
    inside = [abs(e.mean - truth) < 1.96 * getattr(e, error) for e in estimates]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("k", [1, 4])
def test_the_error_over_particles_is_honest(k):
    world = LinearGaussian()
    x = world.sample(10)
    columns = log_weights(
        (world.model, world.off_guide), x.repeat(REPETITIONS, 1), particles=32
    ).reshape(32, REPETITIONS, 10)
    gap = world.off_kl
    if k > 1:
        gap, error = world.off_gap(k, groups=2**17)
        assert error < 0.1 * bounds.iwae_estimate(columns[:, 0], k).error_over_particles
    truth = float(world.log_evidence(x).mean()) - gap
    estimates = [bounds.iwae_estimate(log_w, k) for log_w in columns.unbind(1)]
    assert 0.92 <= covered(estimates, truth, "error_over_particles") <= 0.98


@pytest.mark.parametrize("k", [1, 4])
def test_the_error_over_data_is_honest(k):
    world = LinearGaussian()
    x = world.sample(50 * REPETITIONS)
    columns = log_weights((world.model, world.off_guide), x, particles=4)
    gap = world.off_kl if k == 1 else world.off_gap(k, groups=2**17)[0]
    truth = -float(world.marginal.entropy()) - gap
    estimates = [
        bounds.iwae_estimate(log_w, k) for log_w in columns.reshape(4, REPETITIONS, 50).unbind(1)
    ]
    assert 0.92 <= covered(estimates, truth, "error_over_data") <= 0.98


@pytest.mark.parametrize("bound", [bounds.renyi, bounds.cubo])
def test_groups_of_k_are_averaged(bound):
    log_w = torch.randn(12, 3, dtype=torch.float64)
    wanted = torch.stack([bound(part, 2.0) for part in log_w.split(4)]).mean(0)
    torch.testing.assert_close(bound(log_w, 2.0, 4), wanted)
