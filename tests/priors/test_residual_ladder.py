"""Deep ladders: the log-weights by hand, the levels' KLs, and what is shared."""

import pytest
import torch
from pyro import poutine
from torch import distributions as td
from torch import nn

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.nets import MapsDecoder
from pyrovae.objectives.handlers import free_bits
from pyrovae.train.step import default_loss
from pyrovae.weights.log_weights import log_weight_terms

SHAPE, SIDES, CHANNELS, Z = (1, 8, 8), (2, 2, 4), 4, 2
X = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)).round()


@pytest.fixture
def vae():
    with pv.seeded(1):
        prior = priors.ResidualLadder(SIDES, latents=Z, channels=CHANNELS)
        likelihood = pv.likelihoods.Bernoulli(MapsDecoder(prior.maps, SHAPE))
        return pv.VAE(prior, likelihood, guides.ResidualLadder(prior, SHAPE))


def drawn_and_terms(vae, particles=3):
    """Return the guide's draws by site, [K, N, D], and the terms of their log-weights."""
    drawn = {}

    def guide(x):
        with poutine.trace() as tape:
            vae.guide(x)
        drawn.update({n: site["value"] for n, site in tape.trace.nodes.items() if n[:2] == "z_"})

    return drawn, log_weight_terms((vae.model, guide), X.double(), particles=particles)


def scaled(raw):
    """Return positive numbers that are 1 at 0."""
    one = torch.tensor(1.0 - 1e-5, dtype=torch.float64).expm1().log()
    return nn.functional.softplus(raw + one) + 1e-5


def by_hand(vae, z):
    """Return log p and log q of each site, and log p(x | z), with maps [K * N, C, H, W]."""
    prior, guide = vae.prior, vae.posterior
    rows = len(z["z_3"].flatten(0, 1))
    image = X.double().reshape(5, *SHAPE)
    d = guide.encoder.first(image)
    seen = []
    for side, block in zip((4, 2, 2), guide.encoder.blocks, strict=True):
        d = nn.functional.adaptive_avg_pool2d(d, side)
        d = d + block.inner(d)
        seen.append(d.repeat(rows // 5, 1, 1, 1))
    h = prior.start.reshape(1, CHANNELS, 2, 2).expand(rows, -1, -1, -1)
    log_p, log_q = {}, {}
    for number, level in zip((3, 2, 1), prior.levels, strict=True):
        side = SIDES[3 - number]
        h = nn.functional.interpolate(h, size=(side, side), mode="nearest")
        loc, raw = level.conditional(h).chunk(2, 1)
        change = guide.changes[3 - number](torch.cat([h, seen[number - 1]], 1))
        shift, factor = change.chunk(2, 1)
        value = z[f"z_{number}"].reshape(rows, Z, side, side)
        p = td.Normal(loc, scaled(raw))
        q = td.Normal(loc + shift, scaled(raw) * scaled(factor))
        log_p[f"z_{number}"] = p.log_prob(value).sum((1, 2, 3)).reshape(-1, 5)
        log_q[f"z_{number}"] = q.log_prob(value).sum((1, 2, 3)).reshape(-1, 5)
        h = h + level.project(value)
        h = h + level.block.inner(h)
    net = vae.likelihood.net
    logits = nn.functional.pixel_shuffle(net.layers[1](nn.functional.silu(h)), 2).flatten(1)
    logits = (logits + net.offset.bias).reshape(-1, 5, 64)
    log_x = td.Bernoulli(logits=logits).log_prob(X.double()).sum(-1)
    return log_p, log_q, log_x


def test_the_log_weight_is_the_sum_of_the_densities_of_the_levels(vae):
    drawn, terms = drawn_and_terms(vae.double())
    log_p, log_q, log_x = by_hand(vae, drawn)
    total = log_x
    assert list(terms.guide) == ["z_3", "z_2", "z_1"]
    for name in log_p:
        torch.testing.assert_close(terms.prior[name], log_p[name])
        torch.testing.assert_close(terms.guide[name], log_q[name])
        total = total + log_p[name] - log_q[name]
    torch.testing.assert_close(terms.log_w, total)


def test_the_kls_of_the_levels_add_up_to_the_rate(vae):
    report = pv.evaluate(vae, X, particles=100)
    whole = sum(rate.value for rate in report.site_rates.values())
    torch.testing.assert_close(whole, report.monte_carlo_kl.value, rtol=1e-4, atol=1e-3)
    closed = report.closed_form_kl
    apart = (report.monte_carlo_kl.value - closed.value).abs()
    error = report.monte_carlo_kl.standard_error.hypot(closed.standard_error)
    assert (apart < 5 * error).all()


def test_annealing_through_all_levels_gives_the_bound_of_many_particles(vae):
    with pv.seeded(0):
        annealed = pv.AIS(2, particles=8, leapfrogs=1, limit=1)(vae, X).lower
    bound = pv.evaluate(vae, X[:1], particles=400).iwae[400]
    error = annealed.standard_error.hypot(bound.standard_error)
    assert ((annealed.value - bound.value).abs() < 5 * error).all()


def test_a_guide_that_changes_nothing_is_the_prior(vae):
    with torch.no_grad():
        for change in vae.posterior.changes:
            change[-1].weight.zero_()
            change[-1].bias.zero_()
    _, terms = drawn_and_terms(vae.double())
    torch.testing.assert_close(terms.rate, torch.zeros(3, 5).double(), rtol=0, atol=1e-12)


def test_the_path_is_shared_once(vae):
    assert vae.posterior.prior is vae.prior
    names = [name for name, _ in vae.named_parameters()]
    assert len(names) == len(set(names))
    assert not any(name.startswith("posterior.prior") for name in names)
    with pv.seeded(0):
        z = vae.posterior.prior.levels[0].project.weight
        assert z is vae.prior.levels[0].project.weight


def test_free_bits_hold_the_kl_of_each_level(vae):
    """A guide that is the prior costs the free nats of each level, and no KL."""
    with torch.no_grad():
        for change in vae.posterior.changes:
            change[-1].weight.zero_()
            change[-1].bias.zero_()
    losses = []
    for nats in (0.5, 2.0):
        with pv.seeded(0):
            wrapped = free_bits(nats, per="site").wrap(vae.model, vae.guide)
            losses.append(default_loss(*wrapped, X).loss(*wrapped, X))
    assert losses[1] - losses[0] == pytest.approx(len(X) * len(SIDES) * 1.5, rel=1e-4)


BAD = {
    "sides": (lambda: priors.ResidualLadder((4, 6), latents=1), r"each a multiple.*got \(4, 6\)"),
    "no levels": (lambda: priors.ResidualLadder((), latents=1), r"got \(\)"),
    "no channels": (
        lambda: priors.ResidualLadder((2,), latents=1, channels=0),
        "at least one channel; got 0",
    ),
    "no latents": (lambda: priors.ResidualLadder((2,), latents=0), "at least one latent"),
    "another prior": (
        lambda: guides.ResidualLadder(priors.StandardNormal(2), SHAPE),
        "takes a priors.ResidualLadder, whose blocks it shares; got StandardNormal",
    ),
    "an image that is not square": (
        lambda: guides.ResidualLadder(priors.ResidualLadder((2, 4), latents=1), (1, 8, 12)),
        r"maps of 4 x 4 take square images.*multiple of 4; got \(1, 8, 12\): pad",
    ),
    "a side that does not fit": (
        lambda: MapsDecoder((4, 3, 3), SHAPE),
        "maps of 3 x 3 take square images",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_ladders_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
