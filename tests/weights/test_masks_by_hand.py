"""All ways to write a mask: each counts in bits per dimension and in predictive checks."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.likelihoods import Columns, Masked, Normal, Poisson
from pyrovae.measure.discrepancies import share_of_zeros

N, D = 60, 5
ROWS = torch.arange(N) % 3 > 0
ENTRIES = torch.rand(N, D, generator=torch.Generator().manual_seed(0)) > 0.4
RATES = torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0])


class Rates(nn.Module):
    """Log-means that move with z."""

    def forward(self, z, *_):
        return RATES.log() + 0.3 * z


def poisson(z):
    return dist.Poisson(Rates()(z).exp())


def around(z, x, mask):
    with poutine.mask(mask=mask):
        return pyro.sample("x", poisson(z).to_event(1), obs=x)


def as_columns(z, x, mask):
    groups = [(Poisson(Half(0)), [0, 3]), (Poisson(Half(1)), [1, 2, 4])]
    return Masked(Columns(groups))(z, x, mask)


class Half(nn.Module):
    def __init__(self, which):
        super().__init__()
        self.columns = [[0, 3], [1, 2, 4]][which]

    def forward(self, z, *_):
        return Rates()(z)[..., self.columns]


def sampled(make):
    return lambda z, x, mask: pyro.sample("x", make(z, mask), obs=x)


WAYS = {
    "on entries": (ENTRIES, sampled(lambda z, m: poisson(z).mask(m).to_event(1))),
    "on entries, as numbers": (
        ENTRIES.float(),
        sampled(lambda z, m: poisson(z).mask(m).to_event(1)),
    ),
    "one row for all": (
        ENTRIES[0].expand(N, D),
        sampled(lambda z, _: poisson(z).mask(ENTRIES[0]).to_event(1)),
    ),
    "expanded": (
        ENTRIES,
        sampled(lambda z, m: poisson(z).mask(m).to_event(1).expand(z.shape[:-1])),
    ),
    "Masked": (ENTRIES, lambda z, x, m: Masked(Poisson(Rates()))(z, x, m)),
    "Masked columns": (ENTRIES, as_columns),
    "on data": (ROWS, sampled(lambda z, m: poisson(z).to_event(1).mask(m))),
    "around the site": (ROWS, around),
    "obs_mask": (
        ROWS,
        lambda z, x, m: pyro.sample("x", poisson(z).to_event(1), obs=x, obs_mask=m),
    ),
    "twice": (
        ENTRIES & ROWS[:, None],
        sampled(lambda z, m: poisson(z).mask(m).to_event(1).mask(m.any(-1))),
    ),
    "True": (
        torch.ones(N, D, dtype=torch.bool),
        sampled(lambda z, _: poisson(z).mask(bool(1)).to_event(1)),
    ),
    "none": (torch.ones(N, D, dtype=torch.bool), sampled(lambda z, _: poisson(z).to_event(1))),
}


def prior(mask):
    return pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))


def made(way):
    """Return a VAE, data of its own with 0 where they are missing, the mask, and what is seen."""
    mask, likelihood = WAYS[way]

    def scored(z, x=None, mask=None):
        return likelihood(z, x, mask)

    scored.domain = constraints.nonnegative_integer

    def guide(x, mask):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        if way == "obs_mask":
            with poutine.mask(mask=~mask):
                pyro.sample("x_unobserved", poisson(z).to_event(1))

    z = torch.randn(N, D)
    seen = mask.bool() if mask.ndim == 2 else mask[:, None].expand(N, D)
    x = torch.where(seen, dist.Poisson((RATES.log() + 0.3 * z).exp()).sample(), 0.0)
    return pv.VAE(prior, scored, guide), x, mask, seen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [N, 7])
def test_bits_per_dimension_count_what_is_observed(way, batch_size):
    torch.manual_seed(0)
    vae, x, mask, seen = made(way)
    report = pv.evaluate(vae, (x, mask), particles=20, batch_size=batch_size)
    assert torch.equal(report.entries, seen.sum(1))
    bits = -report.iwae[20].value.sum().item() / math.log(2) / seen.sum().item()
    assert report.bits_per_dimension().mean == pytest.approx(bits, rel=1e-5)
    assert report.quantities["bits per dimension"].mean == pytest.approx(bits, rel=1e-5)
    said = f"{seen.double().sum(1).mean():,.1f} of " in " ".join(report.verdict)
    assert said == (not seen.all())


def test_the_error_of_bits_per_observed_entry_covers_the_truth():
    """A coin for each entry, observed or not by chance: 1 bit each, whatever the numbers."""
    torch.manual_seed(0)
    vae, x, mask, _ = made("none")
    measured, hits = pv.evaluate(vae, (x, mask), particles=2), 0
    for _ in range(400):
        entries = torch.randint(1, 20, (30,))
        nats = -math.log(2) * (entries + torch.randn(30) * entries.sqrt())
        bound = pv.bounds.Estimate(nats.double(), torch.zeros(30).double())
        bits = replace(measured, iwae={2: bound}, entries=entries).bits_per_dimension()
        hits += abs(bits.mean - 1) < 1.96 * bits.error_over_data
    # The spread of the sizes is no error: an error that counted it would be three times as wide.
    assert 0.91 <= hits / 400 <= 0.985


def test_nothing_observed_has_no_bits():
    torch.manual_seed(0)
    vae, x, _, _ = made("on entries")
    report = pv.evaluate(vae, (0 * x, torch.zeros(N, D).bool()), particles=2)
    assert math.isnan(report.bits_per_dimension().mean)


@pytest.mark.parametrize("replication", ["prior", "posterior"])
@pytest.mark.parametrize("way", WAYS)
def test_a_right_model_agrees_with_its_data_however_they_are_masked(way, replication):
    """Zero-filled data against complete draws would be outside in the share of zeros."""
    torch.manual_seed(0)
    vae, x, mask, seen = made(way)
    check = pv.PredictiveCheck(
        {"zeros": share_of_zeros, "mean": torch.mean}, replication=replication, draws=150
    )
    found = check(vae, x, mask)
    assert found.outside == []
    assert found.real["zeros"][0] == pytest.approx(((~seen) | (x == 0)).double().mean().item())
    assert ("entries are missing" in " ".join(found.verdict)) == (not seen.all())


@pytest.mark.parametrize("way", ["on entries", "on data", "Masked"])
def test_a_wrong_model_is_found_by_what_is_observed(way):
    torch.manual_seed(0)
    vae, x, mask, _ = made(way)
    found = pv.PredictiveCheck({"mean": torch.mean}, draws=99)(vae, 2 * x, mask)
    assert found.outside == ["mean"]


def test_a_masked_vae_of_the_librarys_is_checked_with_a_mask_of_ones():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        Masked(Normal(pv.nets.MLP(2, 4))),
        pv.guides.MeanFieldNormal(pv.nets.HideMissing(pv.nets.MLP(4, 4))),
    )
    x = vae.sample(50, torch.ones(50, 4).bool())
    report = pv.evaluate(
        vae, (x, torch.ones(50, 4).bool()), particles=5, diagnostics=[pv.PredictiveCheck()]
    )
    assert not report.refused
    assert report.findings["predictive_check"].outside == []
