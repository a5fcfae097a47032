"""A compiled pass draws the same particles and gives the same weights as an uncompiled one."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import EXACT, OFF, LinearGaussian

import pyrovae as pv
from pyrovae.weights.compiled import MAX_GRAPHS, CompiledRun
from pyrovae.weights.log_weights import iterate_log_weights, log_weight_terms, log_weights


def both(measure, pair, **arguments):
    """Measure with and without a compiled runner, twice with the one, at the same seed."""
    found = []
    runner = CompiledRun()
    for given in ({"runner": runner}, {"runner": runner}, {}):
        with torch.no_grad(), pv.seeded(3):
            found.append(measure((pair.model, pair.guide), pair.x, **arguments, **given))
    return found, runner


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [*EXACT.values(), *OFF.values()], ids=[*EXACT, *OFF])
def test_recorded_weights_are_the_weights(make):
    (first, again, wanted), runner = both(log_weights, make(), particles=7)
    assert len(runner._graphs) == 1
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-12)
    assert torch.equal(first, again)


@pytest.mark.usefixtures("interpreted")
def test_recorded_terms_have_their_names():
    (terms, _, wanted), _ = both(log_weight_terms, OFF["class drawn, z exact"](), particles=5)
    for role in ("prior", "likelihood", "guide"):
        assert getattr(terms, role).keys() == getattr(wanted, role).keys()
        for name, term in getattr(terms, role).items():
            torch.testing.assert_close(term, getattr(wanted, role)[name], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("interpreted")
def test_rows_of_weights_stream_through_two_graphs():
    """Seven particles in rows of three, and a last row of one."""

    def bound(programs, x, **arguments):
        return pv.bounds.streaming_log_mean_exp(iterate_log_weights(programs, x, **arguments))

    pair = OFF["linear as a VAE"]()
    chunk = 3 * len(pair.x)
    (first, again, wanted), runner = both(bound, pair, particles=7, chunk=chunk)
    assert len(runner._graphs) == 2
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-12)
    assert torch.equal(first, again)


@pytest.mark.slow
def test_compiled_weights_are_the_weights():
    (first, _, wanted), _ = both(log_weights, OFF["linear as a VAE"](), particles=7)
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("interpreted")
def test_weights_follow_parameters_that_change_after_the_recording():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4)),
    )
    x, runner, found = torch.randn(4, 3), CompiledRun(), []
    for shift in (0.0, 1.0):
        with torch.no_grad():
            vae.likelihood.net.layers[0].bias.add_(shift)
            for given in ({"runner": runner}, {}):
                with pv.seeded(1):
                    arguments = {"particles": 6, **given}
                    found.append(log_weights(vae, x, **arguments))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    assert not torch.allclose(found[0], found[2])


class Narrow(torch.nn.Module):
    """z ~ N(0, scale^2) and x = z, where Python reads the scale from a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        scale = self.scale.item()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(2).double(), scale).to_event(1), obs=x)


@pytest.mark.usefixtures("interpreted")
def test_weights_follow_numbers_that_python_reads_from_tensors():
    model, runner, x = Narrow(), CompiledRun(), torch.zeros(4, 2, dtype=torch.float64)
    pair = model, lambda x: None  # noqa: ARG005
    for scale in (1.0, 3.0, 1.0):
        model.scale.fill_(scale)
        found = log_weights(pair, x, particles=3, runner=runner)
        wanted = -np.log(2 * np.pi * scale**2)
        torch.testing.assert_close(found, found.new_full((3, 4), wanted), rtol=0, atol=1e-9)
    assert len(runner._graphs) == 2


@pytest.mark.usefixtures("interpreted")
def test_few_shapes_are_recorded_and_the_others_run_all_the_same():
    world, runner = LinearGaussian(), CompiledRun()
    for n in range(1, MAX_GRAPHS + 3):
        x = world.sample(n)
        given = {"particles": 3, "runner": runner}
        found = log_weights((world.model, world.exact_guide), x, **given)
        torch.testing.assert_close(found, world.log_evidence(x).expand(3, n), rtol=0, atol=1e-9)
    assert len(runner._graphs) == MAX_GRAPHS


def test_programs_without_a_static_graph_run_all_the_same_and_say_so():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            scale = 2.0 if z.mean() > 0 else 1.0
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x, runner = torch.zeros(3), CompiledRun()
    with pytest.warns(UserWarning, match="log-weights run uncompiled: .*scale = 2.0 if z.mean"):
        found = log_weights((model, guide), x, particles=2, runner=runner)
    assert torch.isfinite(found).all()
    log_weights((model, guide), x, particles=2, runner=runner)


def test_passes_of_too_many_operations_run_all_the_same_and_say_so(monkeypatch):
    """Recording stops within the programs, long before all steps of a long sequence."""
    steps = []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            total = x
            for _ in range(5000):
                steps.append(1)
                total = torch.add(total, 1.0)
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=total - 5000)

    def guide(x):
        pass

    x, runner = torch.zeros(3), CompiledRun()
    log_weights((model, guide), x, particles=1)
    eager = len(steps)
    with pytest.warns(UserWarning, match="log-weights run uncompiled: more than 1,500 operations"):
        found = log_weights((model, guide), x, particles=1, runner=runner)
    assert torch.equal(found, dist.Normal(0.0, 1.0).log_prob(x).unsqueeze(0))
    assert len(steps) - 2 * eager < 1500


def test_what_no_graph_is_kept_for_runs_all_the_same_and_says_so():
    def model(x, scales):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, float(scales[0])), obs=x)

    def guide(x, scales):
        pass

    x, scales, runner = torch.zeros(3), np.array([2.0, 1.0]), CompiledRun()
    with pytest.warns(UserWarning, match="log-weights run uncompiled: an argument is ndarray"):
        found = log_weights((model, guide), x, scales, particles=1, runner=runner)
    assert torch.equal(found, dist.Normal(0.0, 2.0).log_prob(x).unsqueeze(0))
    log_weights((model, guide), x, scales, particles=1, runner=runner)


@pytest.mark.usefixtures("interpreted")
def test_evaluate_reports_the_same_compiled_or_not():
    world = LinearGaussian()
    x = world.sample(10)
    reports = [
        pv.evaluate(world.vae(), x, particles=50, batch_size=4, compile=each)
        for each in (True, False)
    ]
    for name, estimate in reports[0].estimates.items():
        wanted = reports[1].estimates[name]
        torch.testing.assert_close(estimate.value, wanted.value, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("interpreted")
def test_a_runner_tells_programs_apart():
    x, runner = torch.randn(4, 3), CompiledRun()
    made = [
        pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.nets.MLP(2, 3)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4)),
        )
        for _ in range(2)
    ]
    for vae in made:
        found = []
        for given in ({"runner": runner}, {}):
            with torch.no_grad(), pv.seeded(1):
                found.append(log_weights(vae, x, particles=3, **given))
        torch.testing.assert_close(*found)
    assert len(runner._graphs) == 2
