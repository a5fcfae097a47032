"""The chain over pixels: each sees only those before it, and the product is a density."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import constraints
from worlds import random

import pyrovae as pv
from pyrovae.likelihoods import AutoregressiveBernoulli
from pyrovae.likelihoods.autoregressive import BernoulliChain
from pyrovae.nets import MLP, PixelCNN
from pyrovae.nets.autoregressive import MaskedConvolution

FEATURES = 2
IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)), dtype=torch.float64)
FALSE_ALARM = 1e-4


def loud(shape=(1, 3, 3)):
    """Return a network whose weights are large enough for the pixels to matter to one another."""
    net = PixelCNN(shape, FEATURES, channels=6, blocks=2).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape) / parameter[0].numel() ** 0.5)
    return net


def chain(*batch):
    return BernoulliChain(loud(), 3 * random(7, *batch, FEATURES * 9))


def test_the_masks_are_the_pixels_before_row_by_row():
    strict = MaskedConvolution(1, 1, 5, sees_itself=False).mask.flatten()
    assert strict.tolist() == [1.0] * 12 + [0.0] * 13
    loose = MaskedConvolution(1, 1, 3, sees_itself=True).mask.flatten()
    assert loose.tolist() == [1.0] * 5 + [0.0] * 4


def test_a_logit_depends_on_no_pixel_but_those_before():
    height, width = 6, 5
    net, h = loud((1, height, width)), random(0, FEATURES * 30)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, h), random(1, 30))
    assert (jacobian.triu() == 0).all()
    for row, column in itertools.product(range(height), range(width)):
        for up, left in ((0, 1), (1, 1), (1, 0), (1, -1)):
            if row >= up and 0 <= column - left < width:
                place = row * width + column
                assert jacobian[place, place - up * width - left] != 0


def test_a_logit_is_the_same_whatever_follows():
    net, h, x = loud(), random(0, FEATURES * 9), IMAGES
    logits = net(x, h)
    for pixel in range(9):
        # The images are in the order of binary numbers: those that agree before the pixel follow
        # one another.
        groups = logits[:, pixel].reshape(2**pixel, -1)
        assert (groups == groups[:, :1]).all()
        assert pixel == 0 or len(groups[:, 0].unique()) > 1


def test_a_logit_depends_on_the_features_of_its_own_place():
    net, x = loud((1, 6, 5)), random(1, 30)
    jacobian = torch.autograd.functional.jacobian(lambda h: net(x, h), random(0, FEATURES * 30))
    places = jacobian.reshape(30, FEATURES, 30)
    assert (places.diagonal(dim1=0, dim2=2) != 0).all()
    assert (places.transpose(0, 1).triu(diagonal=1) == 0).all()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_probabilities_of_all_images_sum_to_one(batch):
    density = chain(*batch)
    images = IMAGES.reshape(512, *([1] * len(batch)), 9).expand(512, *batch, 9)
    log_p = density.log_prob(images)
    assert log_p.shape == (512, *batch)
    # A sum of 512 positive numbers in float64.
    torch.testing.assert_close(log_p.exp().sum(0), random(0, *batch) * 0 + 1, rtol=0, atol=1e-12)


def test_the_density_is_the_product_of_its_pixels():
    density = chain(4)
    x = IMAGES[[3, 77, 200, 511]]
    for row in range(4):
        log_p = 0.0
        for pixel in range(9):
            seen = torch.cat([x[row, :pixel], torch.full((9 - pixel,), 0.5)])
            logit = density.net(seen, density.features[row])[pixel]
            log_p += nn.functional.logsigmoid(logit if x[row, pixel] else -logit).item()
        assert density.log_prob(x)[row].item() == pytest.approx(log_p, abs=1e-10)


def test_draws_follow_the_density():
    density, number = chain(), 10_000
    drawn = density.sample((number,))
    assert density.support.check(drawn).all()
    codes = (drawn * 2.0 ** torch.arange(8, -1, -1)).sum(-1).long()
    counts = torch.bincount(codes, minlength=512).double()
    expected = number * density.log_prob(IMAGES).exp()
    # Cells with fewer than 5 expected are pooled: the statistic is then chi-square.
    rare = expected < 5
    pools = [torch.cat([cells[~rare], cells[rare].sum()[None]]) for cells in (counts, expected)]
    assert len(pools[0]) > 50
    assert stats.chisquare(*(pool.detach().numpy() for pool in pools)).pvalue > FALSE_ALARM


def test_each_batch_entry_is_drawn_given_its_own_features():
    density, number = chain(2), 4000
    drawn = density.sample((number,))
    assert drawn.shape == (number, 2, 9)
    exact = (density.log_prob(IMAGES[:, None].expand(512, 2, 9)).exp().T @ IMAGES).detach()
    error = (exact * (1 - exact) / number).sqrt()
    # 18 pixels at 1e-4 in all: 4.5 standard errors.
    assert ((drawn.mean(0) - exact).abs() < 4.5 * error).all()
    assert ((exact[0] - exact[1]).abs() > 9 * error[0]).any()


def test_the_mean_is_right_on_average_and_is_that_of_one_draw():
    density = chain()
    exact = (density.log_prob(IMAGES).exp() @ IMAGES).detach()
    means = density.expand((4000,)).mean.detach()
    error = means.std(0) / 4000**0.5
    # The first pixel has none before it, so its mean is exact; 8 others at 4.4 standard errors.
    torch.testing.assert_close(means[:, 0], exact[0].expand(4000), rtol=0, atol=1e-10)
    assert ((means.mean(0) - exact)[1:].abs() < 4.4 * error[1:]).all()
    assert (error[1:] > 0).all()
    # Given the pixels before, its spread is smaller than that of a draw.
    assert (error[1:] < (exact * (1 - exact) / 4000).sqrt()[1:]).all()


def test_images_broadcast_against_particles_and_expanding_changes_nothing():
    net, h, x = loud(), random(0, 4, 3, FEATURES * 9), IMAGES[[1, 100, 300]]
    density = BernoulliChain(net, h)
    alone = torch.stack([BernoulliChain(net, h[k]).log_prob(x) for k in range(4)])
    torch.testing.assert_close(density.log_prob(x), alone, rtol=0, atol=1e-12)
    wide = BernoulliChain(net, h[0, :1]).expand((4, 3))
    assert (wide.batch_shape, wide.event_shape) == ((4, 3), (9,))
    once = BernoulliChain(net, h[0, 0]).log_prob(x)
    torch.testing.assert_close(wide.log_prob(x), once.expand(4, 3), rtol=0, atol=1e-12)
    assert wide.sample((2,)).shape == (2, 4, 3, 9)


def test_a_score_outside_the_support_is_refused():
    with pytest.raises(ValueError, match="support"):
        chain().log_prob(torch.full((9,), 0.5, dtype=torch.float64))


def test_draws_carry_no_gradient_and_scores_reach_every_parameter():
    density = chain(3)
    drawn = density.sample()
    assert not drawn.requires_grad
    density.log_prob(drawn).sum().backward()
    for name, parameter in density.net.named_parameters():
        assert (parameter.grad != 0).any(), name


def likelihood(width=2):
    return AutoregressiveBernoulli(MLP(width, 5, FEATURES * 9), loud()).double()


def test_the_likelihood_starts_at_the_mean_where_pixels_say_nothing():
    made, x = likelihood(), IMAGES[100:300]
    assert made.start_at_mean(x) is made
    nn.init.zeros_(made.pixels.layers[-1].weight)
    found = made.observation(random(0, 4, 2)).mean
    wanted = (x.sum(0) + 0.5) / 201
    torch.testing.assert_close(found, wanted.expand(4, 9), rtol=0, atol=1e-12)


def test_the_likelihood_passes_latents_and_context_to_the_features():
    made, z, label = likelihood(3), random(0, 4, 2), random(1, 4, 1)
    wanted = made.features(torch.cat([z, label], -1))
    torch.testing.assert_close(made.observation(z, label).features, wanted)
    assert made.domain is constraints.boolean


def test_the_evidence_of_a_vae_of_one_latent_is_its_integral():
    """Hold IWAE at many particles against quadrature over z, for one image."""
    likelihood = AutoregressiveBernoulli(MLP(1, 5, FEATURES * 9), loud())
    guide = pv.guides.MeanFieldNormal(MLP(9, 2))
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide).double()
    x = IMAGES[[37, 201]]
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    with torch.no_grad():
        log_joint = likelihood.observation(z[:, None, None].expand(-1, 2, 1)).log_prob(x)
        log_joint += torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, None]
        log_p = log_joint.logsumexp(0) + math.log(z[1] - z[0])
        log_w = pv.log_weights(vae, x, particles=4000)
    found = pv.bounds.iwae_estimate(log_w)
    # Two data at 1e-4 in all: 4.1 standard errors.
    assert ((found.value - log_p).abs() < 4.1 * found.standard_error).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 0, 8), (8, 8)])
def test_images_of_other_than_one_channel_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of one channel.*got \(.*Use a ConvDecoder"):
        PixelCNN(shape, 2)


def test_inputs_of_another_width_or_dtype_are_refused():
    net = PixelCNN((1, 3, 4), 2, channels=2)
    x, h = torch.zeros(5, 12), torch.zeros(5, 24)
    with pytest.raises(ValueError, match=r"PixelCNN expected inputs \[\.\.\., 12\]; got \(5, 9\)"):
        net(x[:, :9], h)
    with pytest.raises(ValueError, match=r"PixelCNN expected inputs \[\.\.\., 24\]; got \(5, 12"):
        net(x, x)
    with pytest.raises(ValueError, match="got inputs of torch.float64"):
        net(x, h.double())
