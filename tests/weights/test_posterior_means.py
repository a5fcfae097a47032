"""`VAE.embed` against exact posterior means, in closed form and by draws."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import ENUMERATE, Hierarchy, LinearGaussian, random

import pyrovae as pv
from pyrovae.weights.posterior_means import MEAN_DRAWS, posterior_means
from pyrovae.weights.sites import UndefinedMean

WORLD = LinearGaussian()


def with_guide(guide):
    return pv.VAE(WORLD.prior, WORLD.likelihood, guide)


def test_equals_the_exact_posterior_mean_of_the_linear_world():
    x = WORLD.sample(50)
    embedded = WORLD.vae(WORLD.exact_posterior).embed(x)
    torch.testing.assert_close(embedded, WORLD.posterior_mean(x), rtol=1e-12, atol=1e-12)


def test_a_point_mass_is_its_own_mean():
    x = WORLD.sample(50)
    embedded = WORLD.vae(WORLD.mode).embed(x)
    torch.testing.assert_close(embedded, WORLD.posterior_mean(x), rtol=1e-12, atol=1e-12)


def test_batches_do_not_show(monkeypatch):
    vae, x = pv.mlp_vae(64, latents=3, hidden=16), (random(1, 50, 64) > 0).float()
    whole = vae.embed(x)
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 256 * 7)
    torch.testing.assert_close(vae.embed(x), whole)


def test_draws_stand_for_a_mean_without_closed_form():
    """exp(N(m, s^2)) by a transform whose mean torch does not know: exp(m + s^2 / 2)."""
    x = WORLD.sample(300)

    def guide(x):
        base = dist.Normal(0.3 * x[..., :2], 0.4)
        moved = dist.TransformedDistribution(base, dist.transforms.ExpTransform())
        pyro.sample("z", moved.to_event(1))

    loc = 0.3 * x[:, :2]
    truth = (loc + 0.08).exp()
    error = truth * math.sqrt((math.exp(0.16) - 1) / MEAN_DRAWS)
    off = (with_guide(guide).embed(x) - truth) / error
    assert off.abs().max() < 5  # of 600 numbers that are all but normal
    assert abs(off.square().mean() - 1) < 5 * math.sqrt(3 / 600)  # the stated number of draws


def test_of_a_site_below_another_is_averaged_over_it():
    """Each conditional mean is exact given the site above, whose draws alone leave noise."""
    world = Hierarchy()
    x = world.sample(400)
    means = posterior_means(world.exact_guide, pv.weights.given.Given(x))
    truth = world.given([0, 1, 2], [3, 4, 5], x)
    torch.testing.assert_close(means["top"].value, truth.mean[:, :1], rtol=1e-10, atol=1e-10)
    assert (means["top"].noise == 0).all()
    # E[low | top, x] has slope b in top, so its variance given x is b Var(top | x) b'.
    conditional = world.given([1, 2], [0, 3, 4, 5], torch.eye(4, dtype=torch.float64)[:1])
    known = conditional.mean[0].square() * truth.covariance_matrix[..., 0, 0].reshape(-1)[0]
    off = (means["low"].value - truth.mean[:, 1:]) / (known / MEAN_DRAWS).sqrt()
    assert off.abs().max() < 5
    assert ((off.square().mean(0) - 1).abs() < 5 * math.sqrt(2 / 400)).all()
    spread = (means["low"].noise.mean(0) / (known / MEAN_DRAWS) - 1).abs()
    assert (spread < 5 * math.sqrt(2 / (400 * (MEAN_DRAWS - 1)))).all()


class TestSites:
    def guide(self, x):
        logits = torch.stack([x[..., 0], 0 * x[..., 0], -x[..., 0]], -1)
        pyro.sample("c", dist.Categorical(logits=logits), infer=ENUMERATE)
        pyro.sample("z", dist.Normal(x[..., :2], 1.0).to_event(1))
        pyro.sample("bits", dist.Bernoulli(logits=x).to_event(1))

    def vae(self):
        def prior():
            pyro.sample("c", dist.Categorical(torch.ones(3).double()), infer=ENUMERATE)
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("bits", dist.Bernoulli(torch.full((3,), 0.5).double()).to_event(1))
            return z

        return pv.VAE(prior, WORLD.likelihood, self.guide)

    def test_all_stand_side_by_side_and_classes_by_their_probabilities(self):
        x = WORLD.sample(20)
        logits = torch.stack([x[:, 0], 0 * x[:, 0], -x[:, 0]], 1)
        classes = logits.softmax(1)
        found = self.vae().embed(x)
        torch.testing.assert_close(found, torch.cat([classes, x[:, :2], x.sigmoid()], 1))
        for site, wanted in (("c", classes), ("z", x[:, :2]), ("bits", x.sigmoid())):
            torch.testing.assert_close(self.vae().embed(x, site=site), wanted)

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(
            ValueError, match=r"samples the sites \['c', 'z', 'bits'\]; got site='"
        ):
            self.vae().embed(WORLD.sample(3), site="w")


def test_takes_splits_arrays_and_context_and_leaves_no_trace():
    digits = pv.data.load("digits").test
    vae = pv.mlp_vae(64, latents=2, hidden=16)
    vae.posterior.net.layers.append(torch.nn.Dropout(0.9))
    before = torch.get_rng_state()
    embedded = vae.embed(digits)
    assert not embedded.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in vae.modules())
    assert torch.equal(embedded, vae.embed(digits.draw().numpy().astype(np.float64)))
    scaled = pv.VAE(
        lambda s: vae.prior(),
        lambda z, x, s: vae.likelihood(z, x),
        lambda x, s: pyro.sample("z", dist.Normal(s * x[..., :2], 1.0).to_event(1)),
    )
    x, s = torch.rand(5, 64), torch.arange(5.0)[:, None]
    for found in (
        scaled.embed(x, s),
        scaled.embed((x, s)),
        scaled.embed(pv.data.Split(x, context=(s,))),
    ):
        torch.testing.assert_close(found, s * x[:, :2])


def test_what_has_no_mean_is_refused():
    def guide(x):
        pyro.sample("z", dist.Cauchy(x[..., :2], 1.0).to_event(1))

    with pytest.raises(UndefinedMean, match=r"q\(z \| x\) is a Cauchy.*parameters of vae.encode"):
        with_guide(guide).embed(WORLD.sample(5))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((3, 64), math.nan), "NaN or infinite values in 3 of 3"),
        (torch.full((3, 64), 2.0), "Bernoulli"),
        (torch.zeros(0, 64), "at least one row"),
    ],
)
def test_bad_data_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        pv.mlp_vae(64, latents=2, hidden=16).embed(x)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ((), r"x \(7, 6\) with no context: MLP expected.*embed\(x, \*context\)"),
        ((torch.eye(3)[:2],), r"x \(7, 6\) with the context \(2, 3\): .*a row for each datum"),
        ((torch.zeros(7, 2),), r"the context \(7, 2\): MLP expected inputs \[..., 9\]"),
    ],
    ids=["none", "short", "narrow"],
)
def test_a_context_that_is_missing_or_short_is_named(context, message):
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2 + 3, 6)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(6 + 3, 4)),
    )
    with pytest.raises(ValueError, match=message) as refused:
        vae.embed(torch.zeros(7, 6), *context)
    assert "\n" not in str(refused.value)
    assert vae.embed(torch.zeros(7, 6), torch.zeros(7, 3)).shape == (7, 2)


def test_a_guide_that_lacks_an_argument_is_named():
    def guide(x, label):
        return pyro.sample("z", dist.Normal(label, 1.0))

    with pytest.raises(ValueError, match="no context: .*missing 1 required.*'label'"):
        with_guide(guide).embed(torch.zeros(7, 6))
