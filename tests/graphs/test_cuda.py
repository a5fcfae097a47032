"""On a GPU the step is one CUDA graph, and trains what the CPU trains."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from emulated import Ordinary
from programs import LATENTS, PROGRAMS, SIZE, adam, binary, state, train, vae
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.graphs.cuda import WARM_UP
from pyrovae.train.svi import SVI
from pyrovae.weights.compiled import CompiledRun

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is at hand")

STEPS = WARM_UP + 5


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


@pytest.mark.parametrize("name", ["enumerated mixture", "enumerated in the guide"])
def test_programs_without_noise_take_pyros_steps(name):
    with torch.device("cuda"):
        svi, losses, values = train(SVI, PROGRAMS[name], steps=STEPS)
        _, wanted_losses, wanted = train(pyro.infer.SVI, PROGRAMS[name], steps=STEPS)
    assert [graph.replay is not None for graph in svi.graphs] == [True]
    assert losses == pytest.approx(wanted_losses, rel=1e-4)
    for value, other in zip(values, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_captured_and_repeats_at_its_seed(name):
    with torch.device("cuda"):
        svi, losses, values = train(SVI, PROGRAMS[name], steps=STEPS)
        _, again, values_again = train(SVI, PROGRAMS[name], steps=STEPS)
    assert svi.compiled
    assert all(graph.replay._graph is not None for graph in svi.graphs)
    assert losses == again
    assert all(map(torch.equal, values, values_again))


def test_each_replay_draws_fresh_noise():
    torch.manual_seed(0)
    made, x = vae().cuda(), binary().cuda()
    still = torch.optim.SGD(made.parameters(), lr=0.0)
    svi = SVI(made.model, made.guide, still, TraceMeanField_ELBO())
    losses = [svi.step(x) for _ in range(STEPS + 20)]
    assert len(set(losses)) == len(losses)


class Point(nn.Module):
    """A guide without noise, so that both devices compute one number."""

    def __init__(self):
        super().__init__()
        self.net = pv.nets.MLP(SIZE, 5, LATENTS)

    def forward(self, x):
        pyro.sample("z", dist.Delta(self.net(x), event_dim=1))


def test_training_without_noise_is_that_of_the_cpu():
    torch.manual_seed(0)
    x = binary()
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        made = vae(guide=Point()).to(device)
        svi = SVI(made.model, made.guide, adam(), Trace_ELBO())
        losses = [svi.step(x.to(device)) for _ in range(STEPS)]
        found[device] = losses, state(made.cpu())
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-4)
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], rtol=1e-3, atol=1e-4)


OPTIMISERS = {
    "Adam": lambda _: adam(),
    "AdamW": lambda _: pyro.optim.AdamW({"lr": 0.01}),
    "RMSprop": lambda _: pyro.optim.RMSprop({"lr": 0.01}),
    "SGD": lambda _: pyro.optim.SGD({"lr": 0.01}),
    "ClippedAdam": lambda _: pyro.optim.ClippedAdam({"lr": 0.01}),
    "a rate of the CPU": lambda made: torch.optim.Adam(
        made.parameters(), lr=torch.tensor(0.01), fused=True, capturable=True
    ),
}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimizer_takes_its_steps(name, clip_norm):
    """The rate is halved at each step, as a number, a tensor of the GPU or one of the CPU."""
    x, found = binary().cuda(), []
    for kind in (SVI, Ordinary):
        torch.manual_seed(1)
        made = vae(guide=Point()).cuda()
        optim = OPTIMISERS[name](made)
        svi = kind(made.model, made.guide, optim, Trace_ELBO(), clip_norm=clip_norm)
        losses = []
        for _ in range(STEPS):
            losses.append(svi.step(x))
            svi.optim.optimizer.param_groups[0]["lr"] *= 0.5
        found.append((losses, state(made)))
        captured = [graph.replay._graph for graph in svi.graphs if graph.replay]
        assert None not in captured
        assert bool(captured) == (kind is SVI)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


class Shaken(Point):
    """A guide whose noise the CPU draws, one number for all data."""

    def forward(self, x):
        """Draw."""
        pyro.sample("z", dist.Delta(self.net(x) + torch.randn(()), event_dim=1))


def test_a_draw_of_the_cpu_is_not_frozen():
    torch.manual_seed(0)
    made, x = vae(guide=Shaken()).cuda(), binary().cuda()
    still = torch.optim.SGD(made.parameters(), lr=0.0)
    svi = SVI(made.model, made.guide, still, Trace_ELBO())
    with pytest.warns(UserWarning, match=r"the CPU has a part in them, aten\.randn"):
        losses = [svi.step(x) for _ in range(STEPS)]
    assert svi.compiled
    assert len(set(losses)) == len(losses)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second GPU is at hand")
def test_a_second_gpu_captures_what_runs_there():
    x, found = binary(), {}
    for device in ("cuda:0", "cuda:1"):
        torch.manual_seed(1)
        made = vae(guide=Point()).to(device)
        svi = SVI(made.model, made.guide, adam(), Trace_ELBO())
        found[device] = [svi.step(x.to(device)) for _ in range(STEPS)]
    assert found["cuda:1"] == pytest.approx(found["cuda:0"], rel=1e-4)


def test_fit_reaches_the_bound_of_the_cpu():
    """Train on the digits for five epochs: the two bounds differ by their noise alone."""
    digits = pv.data.load("digits")
    reports = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        made = pv.VAE(
            prior=pv.priors.StandardNormal(2),
            likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 32, 64)),
            guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 32, 4)),
        ).to(device)
        pv.fit(made, digits.train, epochs=5, callbacks=[], step=pv.Step(compile=True))
        reports[device] = pv.evaluate(made, digits.test, particles=100)
    difference = reports["cuda"].iwae[100].mean - reports["cpu"].iwae[100].mean
    assert abs(difference) < 1.0  # an epoch more or less is worth half of that


def test_a_kl_weight_and_a_rate_change_between_replays():
    torch.manual_seed(0)
    made, x = vae().cuda(), binary().cuda()
    weight = pv.handlers.kl_weight(0.0)
    svi = SVI(*weight.wrap(made.model, made.guide), adam(), TraceMeanField_ELBO())
    for _ in range(STEPS):
        svi.step(x)
    before = state(made)
    weight.beta = 1000.0
    svi.optim.optimizer.param_groups[0]["lr"].zero_()
    heavy = svi.step(x)
    assert torch.equal(state(made), before)
    weight.beta = 0.0
    assert svi.step(x) < heavy / 10


def test_data_for_a_gpu_are_moved_there_once_and_whole():
    batches = pv.data.Batches(torch.zeros(10, 3), 4, device=torch.device("cuda"))
    assert all(tensor.is_cuda for tensor in batches.tensors)
    assert [x.is_cuda for (x,) in batches] == [True] * 3


def test_log_weights_on_a_gpu_are_those_of_the_cpu_at_the_same_particles():
    """Without noise in the guide both devices score one particle for each datum."""
    torch.manual_seed(0)
    made, x = vae(guide=Point()), binary()
    wanted = pv.log_weights(made, x, particles=3)
    made = made.cuda()
    found = pv.log_weights(made, x.cuda(), particles=3, runner=CompiledRun())
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-4)


def test_every_measurement_runs_on_a_gpu():
    torch.manual_seed(0)
    made, x = vae().cuda(), binary()
    diagnostics = [
        pv.AIS(5, particles=4),
        pv.Gaps(steps=3, particles=30, flow=pv.PerDatumFlow()),
        pv.Latents(draws=50),
        pv.Novelty(1 - x),
        pv.PredictiveCheck(draws=240),
    ]
    report = pv.evaluate(made, x, particles=30, diagnostics=diagnostics)
    assert not report.refused
    assert report.findings.keys() == {diagnostic.name for diagnostic in diagnostics}
    assert pv.latent_plane(made, x.cuda()).aggregate.isfinite().all()
    assert pv.compare(report, report, names=("this", "again")).quantities["ELBO"].mean == 0
