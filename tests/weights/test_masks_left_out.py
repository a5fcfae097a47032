"""All ways to write a mask: what is measured is what the entries left out by hand give."""

import pyro.distributions as dist
import pytest
import torch
from test_masks_by_hand import RATES, WAYS, made

import pyrovae as pv
from pyrovae.measure.impute import impute
from pyrovae.weights.compiled import CompiledRun
from pyrovae.weights.traces import trace_pair


def drawn(vae, data, particles):
    """Return the z [K, N, D] that a pass draws at the seed."""
    with pv.seeded(1), torch.no_grad():
        _, guide_trace = trace_pair(vae.model, vae.guide, *data, particles=particles)
    return guide_trace.nodes["z"]["value"]


def left_out(z, x, seen):
    """Return log p(x_obs | z), [K, N], row by row: prior and guide cancel in a weight."""
    means = (RATES.log() + 0.3 * z).exp()
    rows = [
        dist.Poisson(means[:, n, seen[n]]).log_prob(x[n, seen[n]]).sum(-1) for n in range(len(x))
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("placeholder", [0.0, 40.0])
@pytest.mark.usefixtures("interpreted")
def test_log_weights_are_those_of_the_observed_entries(way, placeholder):
    """Whatever stands at a missing entry, compiled or not."""
    torch.manual_seed(0)
    vae, x, mask, seen = made(way)
    x = torch.where(seen, x, placeholder)
    wanted = left_out(drawn(vae, (x, mask), 3), x, seen)
    runners = [None] if way == "Masked columns" else [None, CompiledRun()]  # made as it runs
    for runner in runners:
        with pv.seeded(1), torch.no_grad():
            found = pv.log_weights(vae, x, mask, particles=3, runner=runner)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("True", "none")])
def test_imputation_weighs_by_the_observed_entries(way):
    """At the same particles, self-normalized by hand."""
    torch.manual_seed(0)
    vae, x, mask, seen = made(way)
    # Where the programs take a mask of data, or numbers, they meet it and not that of entries.
    model, guide = vae.model, vae.guide
    pair = (lambda x, _: model(x, mask)), (lambda x, _: guide(x, mask))
    with pv.seeded(1):
        filled = impute(pair, x, seen, particles=200)
    z = drawn(vae, (x, mask), 200)
    weights = left_out(z, x, seen).softmax(0)[..., None]
    wanted = torch.where(seen, x, (weights * (RATES.log() + 0.3 * z).exp()).sum(0))
    if way == "obs_mask":  # whose missing x is a latent, drawn for each particle
        assert ((filled.x - wanted).abs() <= 5 * filled.standard_error + 1e-4).all()
    else:
        torch.testing.assert_close(filled.x, wanted, rtol=1e-4, atol=1e-4)
