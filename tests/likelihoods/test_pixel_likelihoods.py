"""Likelihoods of whole-number pixels: sums over every level, draws, tails, bits per dimension."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import special, stats
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.distributions.discretized import DiscretizedLogistic
from pyrovae.weights.bounds import bits_per_dimension

CATEGORICAL, MIXTURE = likelihoods.Categorical, likelihoods.DiscretizedLogisticMixture


@dataclass(frozen=True)
class Family:
    """A likelihood, its levels, the network's outputs for each x_i, and its truth by scipy.

    Attributes:
        truth: log P(x) of numbers x [N, D] given the outputs [N, outputs, D].
    """

    make: Callable[[nn.Module], likelihoods.Likelihood]
    levels: int
    outputs: int
    truth: Callable[[np.ndarray, np.ndarray], np.ndarray]


def softmax_of(h, x):
    return np.take_along_axis(special.log_softmax(h, axis=1), x[:, None].astype(int), 1)[:, 0]


def logistics(h, x, levels):
    """Differences of scipy's survival functions on the scale of the network, -1 to 1."""
    weights, locs, raw = np.split(h, 3, axis=1)
    scales = np.logaddexp(0, raw) + 1e-5

    def survival(edge):
        at = 2 * edge[:, None] / (levels - 1) - 1
        found = stats.logistic.sf(at, locs, scales)
        return np.where(at < -1, 1.0, np.where(at > 1, 0.0, found))

    within = survival(x - 0.5) - survival(x + 0.5)
    return np.log((special.softmax(weights, axis=1) * within).sum(1))


def mixture(levels, components):
    return Family(
        partial(MIXTURE, levels=levels, components=components),
        levels,
        3 * components,
        partial(logistics, levels=levels),
    )


FAMILIES = {
    "Categorical, 6": Family(partial(CATEGORICAL, classes=6), 6, 6, softmax_of),
    "Categorical, 256": Family(CATEGORICAL, 256, 256, softmax_of),
    "mixture, 6": mixture(6, 2),
    "mixture, 256": mixture(256, 3),
    "mixture, binary": mixture(2, 1),
}
every = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def outputs_of(family, rows=5, width=1):
    """Return what a network might give; a mixture's scales are a tenth of the range."""
    centers = torch.zeros(family.outputs, 1)
    if family.truth is not softmax_of:
        centers[-family.outputs // 3 :] = -2.0
    return centers + 0.5 * random(0, rows, family.outputs, width)


def distribution(family, h):
    return family.make(nn.Identity()).to(h.dtype).observation(h.flatten(1))


def all_levels(family, dtype=torch.float64):
    """Return one-dimensional images of every level, to be scored in every context."""
    return torch.arange(family.levels, dtype=dtype)[:, None, None]


@every
def test_the_log_probability_is_scipys_summed_over_x(family):
    h = outputs_of(family, width=3)
    x = (random(1, 5, 3).sigmoid() * (family.levels - 1)).round()
    x[0, 0], x[1, 1] = 0, family.levels - 1
    expected = torch.as_tensor(family.truth(h.numpy(), x.numpy()).sum(-1))
    torch.testing.assert_close(distribution(family, h).log_prob(x), expected)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_the_levels_sum_to_one_and_have_their_mean(family, dtype, tolerance):
    fn = distribution(family, outputs_of(family).to(dtype))
    mass = fn.log_prob(all_levels(family, dtype)).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(5, dtype=dtype), rtol=0, atol=tolerance)
    mean = (mass * all_levels(family, dtype)[..., 0]).sum(0)
    torch.testing.assert_close(fn.mean[:, 0], mean, rtol=tolerance, atol=tolerance)


def test_images_of_two_pixels_sum_to_one():
    for name in ("Categorical, 6", "mixture, 6"):
        fn = distribution(FAMILIES[name], outputs_of(FAMILIES[name], width=2))
        images = torch.tensor(list(itertools.product(range(6), repeat=2))).double()
        total = fn.log_prob(images[:, None]).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(5).double(), rtol=0, atol=1e-6)


@every
def test_draws_have_the_probabilities(family):
    """Chi-square over levels, those expected less than five times put together."""
    fn = distribution(family, outputs_of(family, rows=2))
    expected = 20_000 * fn.log_prob(all_levels(family)).exp().numpy()
    drawn = fn.sample((20_000,)).squeeze(-1)
    for i in range(2):
        counts = torch.bincount(drawn[:, i].long(), minlength=family.levels).numpy()
        rare = expected[:, i] < 5
        pooled = [np.append(n[~rare], n[rare].sum()) for n in (counts, expected[:, i])]
        met, wanted = (n[pooled[1] > 0] for n in pooled)
        assert stats.chisquare(met, wanted).pvalue > 1e-4


@every
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_float32_holds_at_the_extremes(family, sign):
    """Outputs of 50, alternating: value and gradient finite, value as in float64."""
    h = 50 * sign * torch.tensor([1.0, -1.0]).repeat(family.outputs)[: family.outputs]
    h = h[None, :, None].clone().requires_grad_()
    x = all_levels(family, torch.float32)
    log_p = distribution(family, h).log_prob(x)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert h.grad.isfinite().all()
    exact = distribution(family, h.detach().double()).log_prob(x.double())
    torch.testing.assert_close(log_p.detach().double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.01), (255.0, 0.05), (-500.0, 3.0), (99.5, 80)])
def test_the_tails_of_a_logistic_keep_their_digits(loc, scale):
    """The sum is 1, and far from m a level further has e^(1 / s) times less."""
    at = torch.tensor(loc), torch.tensor(float(scale))
    log_p = DiscretizedLogistic(*at, 256).log_prob(torch.arange(256.0))
    assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=1e-4)
    edges = (np.array([np.arange(256.0) - 0.5, np.arange(256.0) + 0.5]) - loc) / scale
    edges[0, 0], edges[1, -1] = -np.inf, np.inf
    flipped = np.where(edges.sum(0) > 0, -edges[::-1], edges)  # the tail that has digits
    low, high = stats.logistic.logcdf(flipped)
    exact = high + np.log1p(-np.exp(low - high))
    torch.testing.assert_close(log_p.double(), torch.as_tensor(exact), rtol=1e-5, atol=1e-4)


@every
def test_training_starts_at_the_mean_of_the_data(family):
    x = (random(1, 200, 3).sigmoid() * (family.levels - 1)).round()
    likelihood = family.make(nn.Linear(2, 3 * family.outputs)).double()
    nn.init.zeros_(likelihood.net.weight)
    fn = likelihood.start_at_mean(x).observation(torch.zeros(1, 2).double()).base_dist
    if isinstance(likelihood, CATEGORICAL):  # one datum more, spread over all classes
        torch.testing.assert_close(fn.mean[0], (x.sum(0) + (family.levels - 1) / 2) / 201)
    else:  # the logistics' own mean, before the tails beyond the levels are cut off
        locs = fn.component_distribution.loc[0]
        torch.testing.assert_close(locs, x.mean(0)[:, None].expand_as(locs))


def test_the_mixture_starts_with_the_spread_of_the_data():
    x = 100 + 10 * random(1, 2000, 3)
    likelihood = MIXTURE(nn.Linear(2, 3 * 6), components=2).double()
    fn = likelihood.start_at_mean(x.round()).noise(likelihood.net.bias.detach())
    torch.testing.assert_close(fn.mean, x.round().mean(0), rtol=0, atol=1e-3)
    drawn = fn.sample((20_000,))
    # The variance of a variance of a logistic: kurtosis 4.2, so 5 s.e. = 5 sqrt(3.2 / 20,000).
    ratio = drawn.var(0) / x.round().var(0)
    assert (ratio - 1).abs().max() < 5 * math.sqrt(3.2 / 20_000) + 0.01


def test_classes_start_with_the_frequencies_of_each_pixel():
    x = torch.tensor([[0.0, 2.0], [0.0, 1.0], [1.0, 2.0]])
    likelihood = CATEGORICAL(nn.Linear(2, 6), classes=3).start_at_mean(x)
    started = likelihood.noise(likelihood.net.bias.detach()).logits.softmax(-1)
    counts = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    torch.testing.assert_close(started, (counts + 1 / 3) / 4)


def test_channels_of_a_convolution_are_the_parameters():
    """The blocks of the output are the channels, so that each is an image of its own."""
    likelihood = CATEGORICAL(pv.nets.ConvDecoder(2, (4, 8, 8)), classes=4)
    h = likelihood.net(torch.zeros(1, 2)).reshape(4, 64)
    logits = likelihood.noise(likelihood.net(torch.zeros(1, 2))).logits[0]
    torch.testing.assert_close(logits, h.T)


@every
def test_pixels_are_drawn_as_floats_in_their_domain(family):
    likelihood = family.make(pv.nets.MLP(2, 4, 3 * family.outputs))
    with poutine.trace() as tape, pyro.plate("data", 5, dim=-1):
        x = likelihood(torch.randn(5, 2))
    fn = tape.trace.nodes["x"]["fn"]
    assert (fn.batch_shape, fn.event_shape) == ((5,), (3,))
    assert x.dtype == torch.float32
    pv.data.check_domain(x, likelihood.domain, "the likelihood")
    assert fn.mean.shape == x.shape


@every
def test_particles_stay_in_front_of_the_data(family):
    z, x = random(2, 4, 5, 2), torch.ones(5, 3).double()
    likelihood = family.make(pv.nets.MLP(2, 4, 3 * family.outputs)).double()
    fn = likelihood.observation(z)
    assert (fn.batch_shape, fn.event_shape) == ((4, 5), (3,))
    alone = torch.stack([likelihood.observation(z[k]).log_prob(x) for k in range(4)])
    torch.testing.assert_close(fn.log_prob(x), alone)


def tiny_vae(likelihood):
    guide = pv.guides.MeanFieldNormal(pv.nets.Rescaled(pv.nets.MLP(2, 4), high=3))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (4.0, "whole numbers from 0 to 3; got 4 at row 2"),
        (-1.0, "whole numbers from 0 to 3; got -1 at row 2"),
        (
            0.5,
            r"whole numbers .*; got 0.5 at row 2. Convert .* with \(3 \* x\).round\(\)",
        ),
    ],
)
@pytest.mark.parametrize(
    "likelihood",
    [partial(CATEGORICAL, pv.nets.MLP(2, 8), classes=4), partial(MIXTURE, pv.nets.MLP(2, 30))],
)
def test_pixels_outside_the_range_are_refused_before_the_first_step(likelihood, value, message):
    x = torch.full((3, 2), 3.0)
    x[2, 1] = value
    made = likelihood() if "classes" in likelihood.keywords else likelihood(levels=4)
    name = type(made).__name__
    before = [parameter.clone() for parameter in made.parameters()]
    with pytest.raises(ValueError, match=f"{name} takes values that are {message}"):
        pv.fit(tiny_vae(made), x, epochs=1, callbacks=[])
    with pytest.raises(ValueError, match=f"{name} takes values that are {message}"):
        pv.evaluate(tiny_vae(made), x, particles=2)
    assert all(map(torch.equal, before, made.parameters()))


def test_classes_are_checked_before_they_are_counted():
    with pytest.raises(ValueError, match="Categorical takes .* whole numbers from 0 to 3; got 7"):
        CATEGORICAL(nn.Linear(2, 8), classes=4).start_at_mean(torch.full((3, 2), 7.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CATEGORICAL(nn.Identity(), classes=1),
            "Categorical needs at least two levels .*; got 1",
        ),
        (lambda: MIXTURE(nn.Identity(), levels=0), "Mixture needs at least two levels .*; got 0"),
        (lambda: MIXTURE(nn.Identity(), components=0), "at least one component; got 0"),
        (lambda: pv.nets.Rescaled(nn.Identity(), low=1.0, high=1.0), "low < high; got low=1.0"),
    ],
)
def test_sizes_that_make_no_distribution_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("likelihood", "multiple"),
    [(CATEGORICAL(nn.Linear(2, 300)), 256), (MIXTURE(nn.Linear(2, 100)), 15)],
)
def test_a_width_that_does_not_divide_among_the_parameters_is_refused(likelihood, multiple):
    with pytest.raises(ValueError, match=f"a multiple of {multiple} outputs"):
        likelihood.observation(torch.zeros(5, 2))


def test_a_network_sees_pixels_from_minus_one_to_one_with_their_context():
    net = pv.nets.Rescaled(pv.nets.MLP(4, 2), low=10, high=30)
    x, context = torch.tensor([[10.0, 20.0, 30.0]]), torch.tensor([[7.0]])
    expected = net.net(torch.tensor([[-1.0, 0.0, 1.0, 7.0]]))
    torch.testing.assert_close(net(x, context), expected)


def test_bits_per_dimension():
    """A uniform code over L levels takes log2 L bits for a pixel, whatever the image."""
    fn = CATEGORICAL(nn.Identity(), classes=16).observation(torch.zeros(5, 16 * 3))
    bits = bits_per_dimension(fn.log_prob(torch.ones(5, 3)), 3)
    torch.testing.assert_close(bits, torch.full((5,), 4.0))
    assert bits_per_dimension(-math.log(8), 1) == pytest.approx(3)
    with pytest.raises(ValueError, match="at least one dimension; got dimensions=0"):
        bits_per_dimension(-1.0, 0)
