"""Estimators about the aggregate posterior against mixtures summed exactly and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import distributions as td
from worlds import random

from pyrovae.objectives import aggregate
from pyrovae.objectives.aggregate import GaussianKernel, InverseMultiquadratic

DATA, DIMENSIONS = 6, 3


class FiniteData:
    """Six data, each with a normal posterior: q(z) is a mixture of six, summed by torch."""

    def __init__(self):
        self.means, self.scales = random(1, DATA, DIMENSIONS), random(2, DATA, DIMENSIONS).exp()
        self.z = self.means + self.scales * random(3, DATA, DIMENSIONS)
        self.log_q = td.Normal(self.means, self.scales).log_prob(self.z.unsqueeze(1))
        uniform = td.Categorical(torch.ones(DATA, dtype=torch.float64))
        normals = td.Independent(td.Normal(self.means, self.scales), 1)
        self.log_joint = td.MixtureSameFamily(uniform, normals).log_prob(self.z)
        columns = [td.Normal(self.means[:, j], self.scales[:, j]) for j in range(DIMENSIONS)]
        self.log_marginals = torch.stack(
            [
                td.MixtureSameFamily(uniform, q).log_prob(z)
                for q, z in zip(columns, self.z.T, strict=True)
            ],
            -1,
        )
        self.log_product = self.log_marginals.sum(-1)

    def estimates(self, minibatches, log_weights, *, of=slice(None)):
        """Return q(z_i) estimated from each minibatch of indices, i the first of each."""
        found = []
        for rows in minibatches:
            log_q = self.log_q[list(rows)][:, list(rows), of]
            found.append(aggregate.log_aggregate(log_q, log_weights)[0][0].exp())
        return torch.stack(found)


@pytest.fixture
def finite():
    return FiniteData()


def assert_exact(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_all_the_data_give_the_exact_mixture_and_its_marginals(finite):
    joint, product = aggregate.log_aggregate(finite.log_q, aggregate.stratified(DATA, DATA))
    assert_exact(joint, finite.log_joint)
    assert_exact(product, finite.log_product)


@pytest.mark.parametrize("of", [slice(None), slice(0, 1), slice(2, 3)])
@pytest.mark.parametrize("batch", range(2, DATA + 1))
def test_the_stratified_estimate_is_unbiased_over_every_minibatch(finite, batch, of):
    log_weights = aggregate.stratified(batch, DATA)
    exact = finite.log_joint if of == slice(None) else finite.log_marginals[:, of.start]
    for i in range(DATA):
        others = [n for n in range(DATA) if n != i]
        minibatches = [(i, *rest) for rest in itertools.combinations(others, batch - 1)]
        assert_exact(finite.estimates(minibatches, log_weights, of=of).mean(), exact[i].exp())


@pytest.mark.parametrize("weights", [aggregate.stratified, aggregate.weighted])
def test_the_product_is_made_of_the_dimensions_one_by_one(finite, weights):
    log_q, log_weights = finite.log_q[:4, :4], weights(4, 100)
    one_by_one = [
        aggregate.log_aggregate(log_q[..., j : j + 1], log_weights)[0] for j in range(DIMENSIONS)
    ]
    assert_exact(aggregate.log_aggregate(log_q, log_weights)[1], sum(one_by_one))


def published_weights(batch, size, *, position):
    """Return the weights of the paper, with the last sample of the formula at a position.

    1/N for the draw's own datum, 1/M for M - 1 of the M others, (N - M) / (N M) for the last.
    """
    others = batch - 1
    weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    for row in range(batch):
        weights[row, row] = 1 / size
        weights[row, (row + position) % batch] = (size - others) / (size * others)
    return weights


@pytest.mark.parametrize(("batch", "size"), [(2, 5), (4, 9), (5, 5)])
def test_the_stratified_weights_are_the_published_ones_over_every_place_of_the_last(batch, size):
    places = [published_weights(batch, size, position=p) for p in range(1, batch)]
    assert_exact(aggregate.stratified(batch, size).exp(), torch.stack(places).mean(0))


def test_the_weighted_estimate_is_low_by_what_its_formula_says(finite):
    batch, log_weights = 3, aggregate.weighted(3, DATA)
    for i in range(DATA):
        minibatches = [(i, *rest) for rest in itertools.product(range(DATA), repeat=batch - 1)]
        own, whole = finite.log_q[i, i].sum().exp(), finite.log_joint[i].exp()
        wanted = (own + (batch - 1) * whole) / (DATA * batch)
        assert_exact(finite.estimates(minibatches, log_weights).mean(), wanted)
    joint, _ = aggregate.log_aggregate(finite.log_q, aggregate.weighted(DATA, DATA))
    assert_exact(joint, finite.log_joint - math.log(DATA))


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(2, 5),
    more=st.integers(0, 10**6),
    weights=st.sampled_from([aggregate.stratified, aggregate.weighted]),
)
def test_the_three_parts_add_up_to_the_rate_of_each_draw(seed, batch, more, weights):
    log_q, log_prior = 3 * random(seed, batch, batch, 4), random(seed + 1, batch)
    parts = aggregate.decompose(log_q, log_prior, weights(batch, batch + more))
    assert_exact(parts.rate, log_q.sum(-1).diagonal() - log_prior)


def test_the_parts_of_all_the_data_are_exact(finite):
    log_prior = td.Normal(0.0, 1.0).log_prob(finite.z).sum(-1)
    parts = aggregate.decompose(finite.log_q, log_prior, aggregate.stratified(DATA, DATA))
    own = finite.log_q.sum(-1).diagonal()
    assert_exact(parts.information, own - finite.log_joint)
    assert_exact(parts.total_correlation, finite.log_joint - finite.log_product)
    assert_exact(parts.dimension_wise_kl, finite.log_product - log_prior)


KERNELS = {"Gaussian": GaussianKernel(1.3), "inverse multiquadratic": InverseMultiquadratic(2.0)}


def expected_gaussian(width, loc, covariance):
    """Return E exp(-|d|^2 / 2 w^2) of d ~ N(loc, covariance)."""
    spread = covariance + width**2 * torch.eye(len(loc), dtype=torch.float64)
    normal = td.MultivariateNormal(loc, spread)
    log_normalizer = len(loc) * (math.log(width) + 0.5 * math.log(2 * math.pi))
    return (normal.log_prob(torch.zeros_like(loc)) + log_normalizer).exp().item()


def expected_kernel(kernel, loc, covariance):
    """Return E k of a normal difference; the multiquadratic is a mixture of Gaussian kernels.

    C / (C + r^2) is the integral over t > 0 of C exp(-C t) exp(-r^2 t), with width^2 = 1 / 2 t.
    """
    if isinstance(kernel, GaussianKernel):
        return expected_gaussian(kernel.width, loc, covariance)
    scale = kernel.scale

    def integrand(t):
        return scale * math.exp(-scale * t) * expected_gaussian((2 * t) ** -0.5, loc, covariance)

    return quad(integrand, 0.0, math.inf)[0]


def exact_mmd(kernel, loc, covariance):
    """Return the squared discrepancy of N(loc, covariance) and N(0, I)."""
    zero, eye = torch.zeros_like(loc), torch.eye(len(loc), dtype=torch.float64)
    within = expected_kernel(kernel, zero, 2 * covariance) + expected_kernel(kernel, zero, 2 * eye)
    return within - 2 * expected_kernel(kernel, loc, covariance + eye)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_the_discrepancy_of_two_normals_is_the_closed_form_on_average(kernel, moved):
    eye = torch.eye(2, dtype=torch.float64)
    loc = torch.tensor([0.7, -0.3], dtype=torch.float64) if moved else 0 * eye[0]
    tril = torch.tensor([[0.6, 0.0], [0.5, 0.9]], dtype=torch.float64) if moved else eye
    q = td.MultivariateNormal(loc, scale_tril=tril)
    p = td.MultivariateNormal(0 * loc, eye)
    found = torch.stack(
        [aggregate.mmd(q.sample((20,)), p.sample((15,)), kernel) for _ in range(2000)]
    )
    error = found.std().item() / math.sqrt(len(found))
    wanted = exact_mmd(kernel, loc, q.covariance_matrix)
    assert abs(found.mean().item() - wanted) < 4 * error  # 4 standard errors of independent runs
    assert error < 0.005
    assert (wanted == 0) != moved


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_the_discrepancy_is_its_sum_over_pairs(kernel):
    x, y = random(4, 4, 2).numpy(), random(5, 3, 2).numpy()

    def k(a, b):
        squared = ((a - b) ** 2).sum()
        if isinstance(kernel, GaussianKernel):
            return math.exp(-squared / (2 * kernel.width**2))
        return kernel.scale / (kernel.scale + squared)

    def mean(pairs):
        return np.mean([k(a, b) for a, b in pairs])

    wanted = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2))
    wanted -= 2 * mean(itertools.product(x, y))
    found = aggregate.mmd(torch.tensor(x), torch.tensor(y), kernel)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_the_covariance_is_numpys():
    means = random(6, 7, 3)
    assert_exact(aggregate.covariance(means), torch.tensor(np.cov(means.numpy().T)))
    assert_exact(
        aggregate.covariance(means[:, :1]), torch.tensor(np.cov(means[:, 0].numpy())).reshape(1, 1)
    )


def test_the_penalty_is_its_sum_over_entries():
    covariance = random(7, 4, 4)
    wanted = sum(
        2.0 * covariance[i, j] ** 2 if i != j else 5.0 * (covariance[i, i] - 1) ** 2
        for i, j in itertools.product(range(4), repeat=2)
    )
    found = aggregate.moment_penalty(covariance, off_diagonal=2.0, diagonal=5.0)
    assert_exact(found, wanted)


def test_permuted_dimensions_keep_their_marginals_and_lose_each_other():
    rows, runs = 5, 4000
    z = torch.arange(float(rows)).unsqueeze(1).expand(rows, 2)
    permuted = torch.stack([aggregate.permute_dimensions(z) for _ in range(runs)])
    assert permuted.sort(1).values.equal(z.expand(runs, rows, 2))
    first = permuted[:, 0].long()
    counts = torch.bincount(rows * first[:, 0] + first[:, 1], minlength=rows**2) / runs
    # Each of the 25 pairs has probability 1/25: the largest of 25 deviates below 4.5 errors.
    error = math.sqrt(1 / 25 * 24 / 25 / runs)
    assert (counts - 1 / 25).abs().max() < 4.5 * error


def test_the_discrimination_loss_is_torchs_cross_entropy():
    draws, permuted = random(8, 5), random(9, 5)
    labels = torch.cat([torch.ones(5), torch.zeros(5)]).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.cat([draws, permuted]), labels
    )
    assert_exact(aggregate.discrimination_loss(draws, permuted), wanted)


GRADIENTS = {
    "decomposition": lambda x: (
        aggregate.decompose(
            td.Normal(x, 0.7).log_prob(x.unsqueeze(1) + 0.3), x.sum(-1), aggregate.stratified(4, 9)
        ).total_correlation
    ),
    "information": lambda x: (
        aggregate.decompose(
            td.Normal(x, 0.7).log_prob(x.unsqueeze(1) + 0.3), x.sum(-1), aggregate.weighted(4, 9)
        ).information
    ),
    "Gaussian": lambda x: aggregate.mmd(x, x[:2] + 1, KERNELS["Gaussian"]),
    "multiquadratic": lambda x: aggregate.mmd(x, x[:2] + 1, KERNELS["inverse multiquadratic"]),
    "moments": lambda x: aggregate.moment_penalty(
        aggregate.covariance(x), off_diagonal=2.0, diagonal=3.0
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_finite_differences(name):
    assert torch.autograd.gradcheck(GRADIENTS[name], random(10, 4, 3).requires_grad_())


@pytest.mark.parametrize("weights", [aggregate.stratified, aggregate.weighted])
def test_sizes_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="a minibatch of at least two data; got 1"):
        weights(1, 10)
    with pytest.raises(ValueError, match="got a batch of 11 and data_size=10"):
        weights(11, 10)


@pytest.mark.parametrize("kernel", [GaussianKernel, InverseMultiquadratic])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_kernel_without_a_positive_width_is_refused(kernel, value):
    with pytest.raises(ValueError, match=f"must be positive and finite; got {value}"):
        kernel(value)


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="got 1 and 3 samples"):
        aggregate.mmd(torch.zeros(1, 2), torch.zeros(3, 2), GaussianKernel(1.0))
    with pytest.raises(ValueError, match="a covariance needs at least two data; got 1"):
        aggregate.covariance(torch.zeros(1, 2))
