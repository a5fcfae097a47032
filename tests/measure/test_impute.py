"""Imputation against conditionals in closed form, and what it says of its own accuracy."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases_counts import SEEN, TABLE
from gaps import Gaps, Unmasked, close, gappy_vae
from torch import nn
from worlds import ENUMERATE, Mixture, data_plate

import pyrovae as pv
from pyrovae.likelihoods import Categorical, Columns, Masked, Normal
from pyrovae.measure.impute import impute
from pyrovae.nets import MLP, HideMissing
from pyrovae.weights.given import Given

FALSE_ALARM = 1e-4
PARTICLES = 4000


@pytest.mark.parametrize("guide", ["exact", "off"])
def test_the_mean_is_the_conditional_mean(guide):
    gaps = Gaps(guide=guide)
    filled = impute(gaps.vae, gaps.x, gaps.mask, particles=PARTICLES)
    mean, covariance = gaps.conditional
    missing = ~gaps.mask
    assert torch.equal(filled.x[gaps.mask], gaps.x[gaps.mask])
    assert (filled.standard_error[gaps.mask] == 0).all()
    error = filled.standard_error[missing]
    assert ((filled.x - mean)[missing].abs() < 4.5 * error).all()
    assert filled.draws.shape == (0, 4, 4)
    if guide == "exact":
        # The weights are all alike, and the means at the particles vary as z does.
        close(filled.effective_sample_size, torch.full((4,), PARTICLES).double(), 1e-6)
        spread = covariance.diagonal(dim1=-2, dim2=-1) - gaps.world.noise**2
        known = (spread[missing] / PARTICLES).sqrt()
        # A standard deviation of K normal numbers errs by 1 / sqrt(2 K) of itself.
        assert ((error / known - 1).abs() < 4.5 / math.sqrt(2 * PARTICLES)).all()
    else:
        assert (filled.effective_sample_size < 0.95 * PARTICLES).all()


def test_the_standard_error_is_the_spread_of_estimates():
    """300 estimates: their standard deviation is known to 1 / sqrt(600), 4.5 times over."""
    gaps, missing = Gaps(guide="off"), ~SEEN
    runs = [impute(gaps.vae, gaps.x, gaps.mask, particles=400) for _ in range(300)]
    spread = torch.stack([run.x for run in runs]).std(0)[missing]
    claimed = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()[missing]
    assert ((claimed / spread - 1).abs() < 4.5 / math.sqrt(600)).all()


def test_one_particle_cannot_tell_its_error():
    gaps = Gaps()
    filled = impute(gaps.vae, gaps.x, gaps.mask, particles=1)
    assert filled.standard_error[~gaps.mask].isnan().all()
    assert (filled.standard_error[gaps.mask] == 0).all()


@pytest.mark.parametrize("guide", ["exact", "off"])
def test_draws_have_the_conditional_s_mean_and_covariance(guide):
    """M draws of K particles: an average errs by 1 / M + 1 / (effective size) of the variance."""
    gaps, draws = Gaps(guide=guide), 4000
    filled = impute(gaps.vae, gaps.x, gaps.mask, particles=8000, draws=draws)
    assert torch.equal(filled.draws[:, gaps.mask], gaps.x[gaps.mask].expand(draws, -1))
    means, covariances = gaps.conditional
    for n, seen in enumerate(gaps.mask):
        drawn, mean = filled.draws[:, n, ~seen], means[n, ~seen]
        covariance = covariances[n][~seen][:, ~seen]
        variance = covariance.diagonal()
        share = 1 / draws + 1 / filled.effective_sample_size[n]
        assert ((drawn.mean(0) - mean).abs() < 4.5 * (share * variance).sqrt()).all()
        away = drawn - mean
        products = variance[:, None] * variance + covariance.square()
        off = (away.T @ away / draws - covariance).abs()
        assert (off < 4.5 * (share * products).sqrt()).all()


def test_two_draws_at_one_particle_are_not_the_same():
    gaps = Gaps(guide="mode")
    filled = impute(gaps.vae, gaps.x, gaps.mask, particles=1, draws=50)
    missing = filled.draws[:, ~gaps.mask]
    assert missing.unique().numel() == missing.numel()


def test_cutting_the_data_changes_nothing(monkeypatch):
    gaps = Gaps(guide="mode")
    whole = impute(gaps.vae, gaps.x, gaps.mask, particles=3)
    passes = []
    original = Given.trace
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 3 * 256 * 2)
    monkeypatch.setattr(
        Given, "trace", lambda given, k: passes.append(len(given)) or original(given, k)
    )
    cut = impute(gaps.vae, gaps.x, gaps.mask, particles=3, draws=2)
    assert passes == [2, 2]
    close(cut.x, whole.x, 0)
    assert cut.draws.shape == (2, 4, 4)


def test_what_stands_at_a_missing_entry_is_not_read_even_by_a_guide_that_looks():
    vae = gappy_vae(encoder=Unmasked(MLP(4, 4)))
    found = []
    for other in (TABLE, torch.where(SEEN, TABLE, math.nan), TABLE + 50 * ~SEEN):
        with pv.seeded(1):
            found.append(impute(vae, other, SEEN, particles=5).x)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("side", ["model", "guide"])
def test_a_class_that_is_summed_out_is_averaged_over_exactly(side):
    world = Mixture()
    x, mask = world.sample(5), torch.tensor([[True, False]]).expand(5, 2)

    def model(x, mask):
        infer = ENUMERATE if side == "model" else {}
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(world.weights), infer=infer)
            noise = dist.Normal(world.centers[c], world.noise)
            pyro.sample("x", noise.mask(mask).to_event(1), obs=x)

    def guide(x, mask):
        if side == "guide":
            with data_plate(x):
                pyro.sample("c", dist.Categorical(world.off_classes(x)), infer=ENUMERATE)

    filled = impute((model, guide), x, mask, particles=500, draws=5000)
    normal = torch.distributions.Normal(world.centers[:, 0], world.noise)
    posterior = (world.weights.log() + normal.log_prob(x[:, :1])).softmax(-1)
    close(filled.x[:, 1], posterior @ world.centers[:, 1])
    close(filled.effective_sample_size, torch.full((5,), 500.0).double())
    close(filled.standard_error[:, 1], torch.zeros(5).double())
    parts = scipy.stats.norm(world.centers[:, 1].numpy(), world.noise)
    for n, share in enumerate(posterior.numpy()):
        # The distribution function of each draw is uniform.
        uniform = parts.cdf(filled.draws[:, n, 1, None].numpy()) @ share
        assert scipy.stats.kstest(uniform, "uniform").pvalue > FALSE_ALARM


def test_missing_classes_of_a_table_are_drawn_from_their_conditional():
    """Two clusters, a number and a class each: P(class | number) is a sum of two terms."""
    locs, table_of = torch.tensor([-1.0, 1.0]), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])

    class Rows(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.rows = rows.double()

        def forward(self, z, *context):
            return self.rows[z.squeeze(-1).long()]

    groups = [
        (Normal(Rows(locs[:, None]), scale=1.0), [0]),
        (Categorical(Rows(table_of.log()), classes=3), [1]),
    ]

    def prior(*context):
        weights = torch.tensor([0.5, 0.5]).double()
        return pyro.sample("c", dist.Categorical(weights), infer=ENUMERATE).unsqueeze(-1)

    vae = pv.VAE(prior, Masked(Columns(groups)), lambda x, *context: None)
    x = torch.tensor([[0.4, math.nan], [-2.0, math.nan]]).double()
    filled = impute(vae, x, ~x.isnan(), particles=500, draws=5000, modes=True)
    normal = torch.distributions.Normal(locs.double(), 1.0)
    classes = normal.log_prob(x[:, :1]).softmax(-1) @ table_of.double()
    # The tables are float32 in the likelihood.
    close(filled.x[:, 1], classes @ torch.arange(3.0).double(), 1e-6)
    assert torch.equal(filled.modes[:, 1], classes.argmax(-1).double())
    for n in range(2):
        seen = torch.bincount(filled.draws[:, n, 1].long(), minlength=3)
        expected = 5000 * classes[n] / classes[n].sum()
        assert scipy.stats.chisquare(seen, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles >= 1 .*got particles=0 and draws=0"),
        ({"particles": 5, "draws": -1}, "got particles=5 and draws=-1"),
    ],
)
def test_numbers_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        impute(gappy_vae(), TABLE, SEEN, **options)


def test_an_observed_entry_that_is_not_finite_is_refused():
    x = TABLE.clone()
    x[2, 0] = math.nan
    with pytest.raises(ValueError, match="x has NaN .*first at row 2"):
        impute(gappy_vae(), x, SEEN, particles=2)


def test_a_model_without_the_site_is_refused():
    def model(x, mask):
        with data_plate(x):
            pyro.sample("y", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"needs a site named 'x'; .* the sites \['y'\]"):
        impute((model, lambda x, mask: None), TABLE, SEEN, particles=2)


def test_data_that_the_model_cannot_produce_are_refused():
    def model(x, mask):
        with data_plate(x):
            pyro.sample("x", dist.Delta(torch.zeros(2, 2)).mask(mask).to_event(1), obs=x)

    x, mask = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[True, False]] * 2)
    with pytest.raises(ValueError, match="all weights of 1 data are zero, the first at row 1"):
        impute((model, lambda x, mask: None), x, mask, particles=2)


def test_dropout_is_off_and_put_back():
    encoder = nn.Sequential(nn.Dropout(0.5), MLP(4, 4))
    vae = gappy_vae(encoder=HideMissing(encoder)).train()
    with pv.seeded(1):
        found = impute(vae, TABLE, SEEN, particles=5).x
    assert all(module.training for module in vae.modules())
    with pv.seeded(1):
        wanted = impute(vae.eval(), TABLE, SEEN, particles=5).x
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["class summed out", "one latent"])
def test_the_effective_sample_size_is_that_of_the_log_weights(name):
    gaps, mixture = Gaps(guide="off"), Mixture(continuous=True)
    model, guide, x = {
        "class summed out": (
            lambda x, mask: mixture.model_enumerated(x),
            lambda x, mask: mixture.guide_without_class(x),
            mixture.sample(4),
        ),
        "one latent": (gaps.vae.model, gaps.vae.guide, gaps.x),
    }[name]
    mask = SEEN if name == "one latent" else torch.ones_like(x, dtype=torch.bool)
    with pv.seeded(1):
        wanted = pv.bounds.effective_sample_size(
            pv.log_weights((model, guide), x, mask, particles=50)
        )
    with pv.seeded(1):
        found = impute((model, guide), x, mask, particles=50).effective_sample_size
    close(found, wanted)
    assert (found < 49).all(), "the weights are all alike"
