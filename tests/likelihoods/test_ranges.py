"""Every likelihood at both ends of what float32 networks give: values, gradients, draws, means."""

import itertools
import math

import pytest
import torch
from torch import nn

from pyrovae import likelihoods
from pyrovae.distributions.counts import LogPoisson, OverdispersedPoisson
from pyrovae.nets import PixelCNN

WIDTH = 3
ENDS = [-1e6, -1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4, 1e6]
SOME = [-1e6, -100.0, 0.0, 100.0, 1e6]


class Constant(nn.Module):
    """A network whose output is what it is given, whatever the latents."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, *_):
        return self.output


COUNTS = [[0.0, 0.0, 0.0], [1.0, 7.0, 1000.0]]
LEVELS = [[0.0, 4.0, 3.0], [1.0, 2.0, 4.0]]
REAL = [[0.0, 0.5, -2.0], [5.0, -3.0, 1e4]]
SPREAD = {"scale": "network"}

# What makes the likelihood of a network, how many numbers that gives for each x_i, and data.
FAMILIES = {
    "Bernoulli": (likelihoods.Bernoulli, 1, [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
    "Beta": (likelihoods.Beta, 2, [[1e-6, 0.5, 1 - 1e-6], [0.3, 1e-30, 0.9]]),
    "Categorical": (lambda net: likelihoods.Categorical(net, classes=5), 5, LEVELS),
    "ContinuousBernoulli": (
        likelihoods.ContinuousBernoulli,
        1,
        [[0.0, 0.5, 1.0], [1.0, 0.0, 0.3]],
    ),
    "DiscretizedLogisticMixture": (
        lambda net: likelihoods.DiscretizedLogisticMixture(net, components=1, levels=5),
        3,
        LEVELS,
    ),
    "Laplace": (lambda net: likelihoods.Laplace(net, **SPREAD), 2, REAL),
    "Laplace, one scale": (likelihoods.Laplace, 1, REAL),
    "Multinomial": (likelihoods.Multinomial, 1, COUNTS),
    "NegativeBinomial": (lambda net: likelihoods.NegativeBinomial(net, WIDTH), 1, COUNTS),
    "Normal": (lambda net: likelihoods.Normal(net, **SPREAD), 2, REAL),
    "Normal, one scale": (likelihoods.Normal, 1, REAL),
    "Poisson": (likelihoods.Poisson, 1, COUNTS),
    "StudentT": (lambda net: likelihoods.StudentT(net, **SPREAD), 2, REAL),
    "StudentT, one scale": (likelihoods.StudentT, 1, REAL),
    "ZeroInflatedNegativeBinomial": (
        lambda net: likelihoods.ZeroInflatedNegativeBinomial(net, WIDTH),
        2,
        COUNTS,
    ),
}
LEARNED = ["NegativeBinomial", "ZeroInflatedNegativeBinomial"] + [
    f"{name}, one scale" for name in ("Normal", "Laplace", "StudentT")
]


def held(make, output, x, *, learned=None):
    """Score x; hold value and gradient to be finite, and draws and means too."""
    output = output.requires_grad_()
    likelihood = make(Constant(output))
    own = [parameter for parameter in likelihood.parameters() if parameter is not output]
    if learned is not None:
        for parameter in own:
            parameter.data.fill_(learned)
    fn = likelihood.observation(torch.zeros(len(x), 1))
    value = fn.log_prob(x)
    gradients = torch.autograd.grad(value.sum(), [output, *own])
    assert value.dtype == torch.float32
    assert value.isfinite().all(), value
    assert all(gradient.isfinite().all() for gradient in gradients), gradients
    return fn


def blocks(numbers, rows):
    return torch.cat([torch.full((rows, WIDTH), number) for number in numbers], -1)


def test_every_likelihood_is_here():
    apart = {"AutoregressiveBernoulli", "Columns", "Likelihood", "Masked", "NetworkLikelihood"}
    apart |= {"Label"}  # a class of a datum, without entries
    apart |= {"Autoregressive", "EachStep", "EachModality"}  # wrap some of these
    apart |= {"LinearStates"}  # of sequences: tests/distributions/test_linear_states.py
    public = {n for n in likelihoods.__all__ if n[0].isupper()}
    assert public - apart == {name.partition(",")[0] for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_gradients_draws_and_means_are_finite_at_both_ends(family):
    make, number, x = FAMILIES[family]
    x = torch.tensor(x)
    for ends in itertools.product(ENDS, repeat=min(number, 3)):
        ends = [*ends, *[0.0] * (number - len(ends))]
        fn = held(make, blocks(ends, len(x)), x)
        if family == "Multinomial":
            continue
        assert fn.sample().isfinite().all(), ends
        assert fn.mean.isfinite().all(), ends


@pytest.mark.parametrize("learned", ENDS)
@pytest.mark.parametrize("family", LEARNED)
def test_learned_scales_and_concentrations_have_both_ends(family, learned):
    make, number, x = FAMILIES[family]
    for ends in itertools.product(SOME, repeat=number):
        fn = held(make, blocks(ends, len(x)), torch.tensor(x), learned=learned)
        assert fn.sample().isfinite().all(), ends
        assert fn.mean.isfinite().all(), ends


@pytest.mark.parametrize("size", [0.0, 1.0, 1e6, 1e20])
@pytest.mark.parametrize("kind", ["Poisson", "NegativeBinomial", "Multinomial"])
def test_a_library_size_has_both_ends(kind, size):
    x, size = torch.tensor(COUNTS), torch.full((2,), size)
    for end in ENDS:
        output = torch.tensor([[end, 0.0, -end]]).expand(2, 3).clone().requires_grad_()
        width = (WIDTH,) if kind == "NegativeBinomial" else ()
        likelihood = getattr(likelihoods, kind)(Constant(output), *width, library=True)
        fn = likelihood.observation(torch.zeros(2, 1), size)
        if kind == "Multinomial":
            fn = type(fn)(fn.logits, x.sum(-1))
        value = fn.log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("end", ENDS)
def test_pixels_that_model_one_another_have_both_ends(end):
    features = blocks([end, -end], 2)[:, :4].requires_grad_()
    pixels = PixelCNN((1, 2, 2), 1)
    likelihood = likelihoods.AutoregressiveBernoulli(Constant(features), pixels)
    value = likelihood.observation(torch.zeros(2, 1)).log_prob(torch.ones(2, 4))
    gradients = torch.autograd.grad(value.sum(), [features, *pixels.parameters()])
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("h", [-1e4, -100.0, -90.0, -30.0, 0.0, 10.0, 29.0])
@pytest.mark.parametrize("x", [0.0, 1.0, 7.0, 1000.0])
def test_a_poisson_is_exact_by_its_log_mean(h, x):
    """Against x h - e^h - log x! and its slope x - e^h in float64, to the rounding of float32."""
    at = torch.tensor(h, requires_grad=True)
    value = LogPoisson(at).log_prob(torch.tensor(x))
    value.backward()
    terms = (x * h, math.exp(h), math.lgamma(x + 1))
    wanted, rounding = terms[0] - terms[1] - terms[2], 1e-6 * sum(map(abs, terms))
    assert value.item() == pytest.approx(wanted, rel=0, abs=rounding + 1e-6)
    assert at.grad.item() == pytest.approx(x - math.exp(h), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("h", "down"), [(100.0, True), (1e6, True), (-100.0, False)])
def test_the_gradient_of_a_count_leads_back_from_either_end(h, down):
    at = torch.tensor(h, requires_grad=True)
    LogPoisson(at).log_prob(torch.tensor(3.0)).backward()
    assert (at.grad < 0) == down
    # An optimizer squares it, and adds many.
    assert (1e6 * at.grad.square()).isfinite()


def test_beyond_the_highest_log_mean_a_poisson_is_that_of_the_highest():
    beyond, highest = LogPoisson(torch.tensor(100.0)), LogPoisson(torch.tensor(30.0))
    x = torch.tensor([0.0, 5.0, 1e13])
    assert torch.equal(beyond.log_prob(x), highest.log_prob(x))
    assert beyond.mean == highest.mean == beyond.variance


@pytest.mark.parametrize("log_r", [30.0, 100.0, 1e6])
def test_a_concentration_without_end_is_a_poisson(log_r):
    x, h = torch.tensor([0.0, 1.0, 7.0]), torch.tensor(1.0)
    near = OverdispersedPoisson(h.expand(3), torch.full((3,), log_r)).log_prob(x)
    torch.testing.assert_close(near, LogPoisson(h).log_prob(x))
