"""A compiled pass weighs programs of one's own as an uncompiled one does, however they broadcast.

While a graph is recorded its tensors have no values, so whether a program keeps particles apart is
found beforehand.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from all_cases import in_double
from test_own_networks import OWN, own
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae.weights.compiled import CompiledRun

pytestmark = pytest.mark.usefixtures("interpreted")


def weighed(case, particles, **given):
    with pv.seeded(3), torch.no_grad():
        return pv.log_weights(case.vae, case.x, *case.context, particles=particles, **given)


@pytest.mark.parametrize("particles", [1, 2, 7])
@pytest.mark.parametrize("name", OWN)
def test_networks_of_ones_own_weigh_the_same_compiled(name, particles):
    case, runner = in_double(own(name)), CompiledRun()
    wanted = weighed(case, particles)
    for _ in range(2):
        found = weighed(case, particles, runner=runner)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert len(runner._graphs) == 1


@pytest.mark.parametrize("name", ["Normalized", "Concatenated"])
def test_a_report_is_the_same_compiled(name):
    """Three data at a time, so that the last pass has another shape."""
    case = in_double(own(name))
    reports = [
        pv.evaluate(
            case.vae, (case.x, *case.context), particles=9, batch_size=3, compile=compile
        ).quantities
        for compile in (True, False)
    ]
    for name, estimate in reports[1].items():
        assert reports[0][name].mean == pytest.approx(estimate.mean, rel=1e-9, nan_ok=True), name


def test_a_network_that_comes_to_read_z_is_recorded_anew():
    """With a last layer of zeros every way to take particles gives the same densities."""
    case, runner = in_double(own("Recurrent")), CompiledRun()
    out = case.vae.likelihood.net.out
    trained = out.weight.detach().clone()
    for weight in (torch.zeros_like(trained), trained):
        with torch.no_grad():
            out.weight.copy_(weight)
        found = weighed(case, 7, runner=runner)
        torch.testing.assert_close(found, weighed(case, 7), rtol=0, atol=1e-12)


def test_programs_that_mix_particles_are_refused_compiled_too():
    table = random(1, 5, 2)

    def model(x):
        with pyro.plate("data", 5, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0 * table, 1.0).to_event(1))
            centered = z - z.mean(0) if z.ndim == 3 else z
            pyro.sample("x", dist.Normal(centered + table, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 5, dim=-1):
            pyro.sample("z", dist.Normal(0.0 * table, 1.0).to_event(1))

    with pytest.raises(ValueError, match="log-probabilities together than each alone"):
        pv.log_weights((model, guide), random(2, 5, 2), particles=4, runner=CompiledRun())


def test_a_plain_function_over_a_network_of_ones_own_weighs_the_same():
    """The network stands in a closure, and x is scored in two sites, one of them masked."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double().eval()
    net[1].running_mean.copy_(random(1, 5))
    x, seen = random(2, 5, 3), torch.arange(5) > 1

    def model(x, seen):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            loc = net(z)
            pyro.sample("y", dist.Normal(loc[..., 0], 1.0).mask(seen), obs=x[:, 0])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))

    found = []
    for given in ({}, {"runner": CompiledRun()}):
        with pv.seeded(3), torch.no_grad():
            found.append(pv.log_weights((model, guide), x, seen, particles=6, **given))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
