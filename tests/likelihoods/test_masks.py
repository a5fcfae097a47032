"""Masks: the bound is that of the observed part, and what no mask can serve is refused."""

import math

import pyro
import pytest
import torch
from cases_counts import COUNTS, SEEN, TABLE, table
from cases_likelihoods import FAMILIES
from gaps import Gaps, Unmasked, close, gappy_vae
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods
from pyrovae.likelihoods import Columns, Masked, Normal, fill_missing
from pyrovae.measure.impute import impute
from pyrovae.nets import MLP, HideMissing, PixelCNN

PATTERNS = SEEN[:, :3]
ELEMENTWISE = {
    **FAMILIES,
    "Poisson": (likelihoods.Poisson, 1, COUNTS),
    "NegativeBinomial": (lambda net: likelihoods.NegativeBinomial(net, 3), 1, COUNTS),
    "ZeroInflatedNegativeBinomial": (
        lambda net: likelihoods.ZeroInflatedNegativeBinomial(net, 3),
        2,
        COUNTS,
    ),
}


# The bound.


@pytest.mark.parametrize("chunk", [None, 8, 3])
def test_the_exact_posterior_of_the_observed_part_leaves_nothing_to_chance(chunk):
    """A chunk of 8 cuts the data, and one of 3 the particles: the mask goes with its row."""
    gaps = Gaps()
    log_w = pv.log_weights(gaps.vae, gaps.x, gaps.mask, particles=4, chunk=chunk)
    close(log_w, gaps.log_evidence.expand(4, -1))


@pytest.mark.parametrize(("family", "outputs", "x"), ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_each_row_is_scored_as_by_the_model_of_its_observed_columns(family, outputs, x):
    x, z = x.double(), random(0, 6, 4, 2)
    net = MLP(2, 5, 3 * outputs).double()
    whole = family(net).double()
    found = Masked(whole).observation(z, PATTERNS).log_prob(x)
    for n, seen in enumerate(PATTERNS):
        smaller = family(Kept(net, seen)).double()
        if hasattr(smaller, "log_concentration"):
            smaller.log_concentration = nn.Parameter(whole.log_concentration[seen])
        wanted = smaller.observation(z[:, n : n + 1]).log_prob(x[n : n + 1, seen])
        # The same terms; an empty sum of zeros may add them in another order.
        close(found[:, n : n + 1], wanted, 1e-12)


class Kept(nn.Module):
    """Some columns' share of a network's output."""

    def __init__(self, net, seen):
        super().__init__()
        self.net, self.seen = net, seen

    def forward(self, z):
        return self.net(z).unflatten(-1, (-1, len(self.seen)))[..., self.seen].flatten(-2)


def test_the_log_weights_are_those_of_the_smaller_model_at_the_same_draws():
    """One mask for all rows: the smaller VAE has no missing column at all."""
    x, seen = random(1, 5, 3), torch.tensor([True, False, True])
    decoder, encoder = MLP(2, 6, 3).double(), MLP(3, 6, 4).double()
    vae = pv.VAE(
        pv.priors.StandardNormal(2).double(),
        Masked(Normal(decoder, scale=0.5)),
        pv.guides.MeanFieldNormal(HideMissing(encoder)),
    )
    smaller = pv.VAE(
        pv.priors.StandardNormal(2).double(),
        Normal(Kept(decoder, seen), scale=0.5),
        pv.guides.MeanFieldNormal(Padded(encoder)),
    )
    mask = seen.expand(5, 3)
    with pv.seeded(1):
        found = pv.log_weights(vae, x, mask, particles=7)
    with pv.seeded(1):
        wanted = pv.log_weights(smaller, x[:, seen], particles=7)
    close(found, wanted, 1e-13)
    shared = encoder.layers[0].weight
    (of_vae,) = torch.autograd.grad(pv.bounds.iwae(found).sum(), shared)
    (of_smaller,) = torch.autograd.grad(pv.bounds.iwae(wanted).sum(), shared)
    close(of_vae, of_smaller, 1e-11)


class Padded(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        first, last = x.unbind(-1)
        return self.net(torch.stack([first, torch.zeros_like(first), last], -1))


def weights(vae, x, *context):
    with pv.seeded(1), torch.no_grad():
        return pv.log_weights(vae, x, *context, particles=3)


def test_what_stands_at_a_missing_entry_is_not_read():
    vae = gappy_vae()
    other = torch.where(SEEN, TABLE, torch.tensor([7.0, 1.0, 40.0, -3.0]))
    wanted = weights(vae, TABLE, SEEN)
    assert torch.equal(weights(vae, other, SEEN), wanted)
    leaking = pv.VAE(vae.prior, vae.likelihood, pv.guides.MeanFieldNormal(Unmasked(MLP(4, 4))))
    assert not torch.equal(weights(leaking, other, SEEN), weights(leaking, TABLE, SEEN))


def test_a_table_with_gaps_is_the_sum_over_its_observed_columns():
    columns, z = table().double(), random(0, 3, 4, 2)
    normal, categorical, poisson = columns.likelihoods
    x = TABLE.double()

    def entries(likelihood, where):
        scores = likelihood.observation(z).base_dist.log_prob(x[:, where])
        return (scores * SEEN[:, where]).sum(-1)

    wanted = entries(normal, [3, 0]) + entries(categorical, [1]) + entries(poisson, [2])
    close(Masked(columns).observation(z, SEEN).log_prob(x), wanted, 1e-12)


def test_a_row_that_is_all_missing_has_the_prior_for_posterior_and_evidence_one():
    gaps = Gaps()
    mask = gaps.mask.clone()
    mask[1] = False
    terms = pv.log_weight_terms(gaps.vae, gaps.x, mask, particles=5)
    assert (terms.likelihood["x"][:, 1] == 0).all()
    assert (terms.likelihood["x"][:, 0] != 0).all()
    close(terms.log_w[:, 1], torch.zeros(5).double(), 1e-12)


def test_draws_and_means_are_complete():
    likelihood = Masked(Normal(MLP(2, 4), scale=1.0))
    fn = likelihood.observation(torch.zeros(4, 2), SEEN)
    torch.testing.assert_close(fn.mean, likelihood.likelihood.net(torch.zeros(4, 2)))
    assert ((fn.sample() - fn.mean) != 0).all()


def test_the_encoder_sees_no_missing_entry_and_may_see_the_mask():
    encoder = HideMissing(MLP(4 + 4, 2), append_mask=True)
    wanted = encoder.net(torch.cat([TABLE * SEEN, SEEN.float()], -1))
    torch.testing.assert_close(encoder(TABLE, SEEN), wanted)
    encoder = HideMissing(MLP(4 + 1, 2))
    label = torch.randn(4, 1)
    torch.testing.assert_close(
        encoder(TABLE, label, SEEN), encoder.net(torch.cat([TABLE * SEEN, label], -1))
    )


def test_a_table_with_gaps_is_fitted_and_evaluated():
    vae = gappy_vae()
    x, mask = fill_missing(torch.where(SEEN, TABLE, math.nan))
    assert torch.equal(x, TABLE * SEEN)
    assert torch.equal(mask, SEEN)
    before = weights(vae, x, mask).mean()
    step = pv.Step(optim=pyro.optim.Adam({"lr": 1e-2}))
    pv.fit(vae, (x, mask), epochs=50, step=step, callbacks=[])
    assert weights(vae, x, mask).mean() > before + 1
    report = pv.evaluate(vae, (x, mask), particles=10)
    assert math.isfinite(report.elbo.mean)


# What is refused.


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (SEEN[:, :3], r"of shape \(4, 4\), that of x; got shape \(4, 3\)"),
        (SEEN[:3], r"of shape \(4, 4\), that of x; got shape \(3, 4\)"),
        (SEEN[0], r"of shape \(4, 4\), that of x; got shape \(4,\)"),
        (SEEN.float(), r"boolean mask.* got a tensor of torch.float32: convert it with mask.bool"),
        (None, "boolean mask.* got NoneType"),
    ],
)
@pytest.mark.parametrize("owner", ["Masked", "HideMissing", "impute"])
def test_a_mask_of_another_shape_or_type_is_refused(owner, mask, message):
    ask = {
        "Masked": lambda: Masked(table()).observation(torch.zeros(4, 2), mask),
        "HideMissing": lambda: HideMissing(MLP(4, 2))(TABLE, mask),
        "impute": lambda: impute(gappy_vae(), TABLE, mask, particles=2),
    }[owner]
    with pytest.raises(ValueError, match=f"{owner} takes a.*{message}"):
        ask()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Masked(table()).observation(torch.zeros(4, 2)),
        lambda: HideMissing(MLP(4, 2))(TABLE),
    ],
)
def test_no_mask_at_all_is_refused(ask):
    with pytest.raises(ValueError, match=r"mask of observed entries .*\(4, 4\) after x"):
        ask()


def test_nan_is_refused_with_a_way_to_mend_it():
    x = torch.where(SEEN, TABLE, math.nan)
    with pytest.raises(ValueError, match="x has NaN .* replace the values and mask them"):
        pv.fit(gappy_vae(), (x, SEEN), epochs=1)


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: likelihoods.Multinomial(MLP(2, 4)),
        lambda: likelihoods.AutoregressiveBernoulli(MLP(2, 8), PixelCNN((1, 2, 2), 2)),
        lambda: Columns([(likelihoods.Multinomial(MLP(2, 4)), [0, 1, 2, 3])]),
    ],
)
def test_entries_that_depend_on_each_other_are_refused(likelihood):
    with pytest.raises(ValueError, match=r"independent entries given z; got .*\(4,\)"):
        Masked(likelihood()).observation(torch.zeros(4, 2), SEEN)


def test_what_is_no_likelihood_is_refused():
    with pytest.raises(
        ValueError, match="a pyrovae.likelihoods.Likelihood; got function. In your"
    ):
        Masked(lambda z, x=None: None)
