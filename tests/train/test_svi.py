"""A compiled step is the step that Pyro takes: same loss, same gradients, same parameters."""

import copy
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import (
    LATENTS,
    PROGRAMS,
    ROWS,
    SIZE,
    adam,
    binary,
    graph_of,
    mean_field,
    score_function,
    state,
    train,
    vae,
)
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.graphs import capture
from pyrovae.train.svi import MAX_GRAPHS, SVI


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", PROGRAMS)
def test_ten_recorded_steps_are_ten_steps_of_pyro(name):
    svi, losses, values = train(SVI, PROGRAMS[name])
    _, wanted_losses, wanted_values = train(pyro.infer.SVI, PROGRAMS[name])
    assert svi.compiled
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    assert len(values) == len(wanted_values) > 0
    for value, wanted in zip(values, wanted_values, strict=True):
        # Adam divides by the gradient's size: a gradient near 0 turns rounding into a step.
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_gradients_are_pyros(name):
    model, guide, loss, arguments = PROGRAMS[name]()
    graph = graph_of(SVI(model, guide, adam(), loss), *arguments)
    torch.manual_seed(3)
    value, grads = graph.run(*arguments)
    for parameter in graph.trained:
        parameter.grad = None
    torch.manual_seed(3)
    assert value == pytest.approx(loss.loss_and_grads(model, guide, *arguments), rel=1e-5)
    for grad, parameter in zip(grads, graph.trained, strict=True):
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean field, TraceMeanField_ELBO", "flow guide"])
def test_ten_compiled_steps_are_ten_steps_of_pyro(name):
    svi, losses, values = train(SVI, PROGRAMS[name])
    _, wanted_losses, wanted_values = train(pyro.infer.SVI, PROGRAMS[name])
    assert svi.compiled
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    for value, wanted in zip(values, wanted_values, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def compilations(monkeypatch):
    """Let Dynamo compile with a backend that does nothing, and gather the graphs given to it."""
    given, compile = [], torch.compile

    def backend(graph, inputs):
        given.append(graph)
        return graph

    monkeypatch.setattr(
        torch, "compile", lambda graph, **_: compile(graph, backend=backend, dynamic=False)
    )
    yield given
    torch._dynamo.reset()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_is_compiled_once(compilations, name):
    svi, *_ = train(SVI, PROGRAMS[name], steps=3)
    assert svi.compiled
    assert len(compilations) == 1


def test_log_weights_are_compiled_once(compilations):
    made, x = vae(), binary()[:6]  # two passes of one shape
    pv.log_weights(made, x, particles=20, chunk=60, runner=pv.CompiledRun())
    assert len(compilations) == 1


def eager_and_recorded(make, steps):
    """Run the same steps with Pyro's SVI and with ours; return both programs and their losses."""
    results = []
    for kind in (pyro.infer.SVI, SVI):
        torch.manual_seed(0)
        made = make()
        svi = kind(made.model, made.guide, adam(), TraceMeanField_ELBO())
        torch.manual_seed(1)
        results.append((made, steps(svi, made)))
    return results


def assert_same_training(make, steps):
    (theirs, wanted), (ours, losses) = eager_and_recorded(make, steps)
    assert losses == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(state(ours), state(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
def test_a_smaller_last_batch_is_recorded_anew():
    x = binary()
    assert_same_training(vae, lambda svi, _: [svi.step(x[:n]) for n in (7, 7, 3, 7, 1)])


@pytest.mark.usefixtures("interpreted")
def test_a_parameter_switched_off_stays_and_on_again_moves():
    x = binary()

    def steps(svi, made):
        losses = []
        for trained in (True, False, True):
            made.posterior.requires_grad_(trained)
            before = made.posterior.net.layers[0].weight.detach().clone()
            losses += [svi.step(x), svi.step(x)]
            moved = not torch.equal(before, made.posterior.net.layers[0].weight)
            assert moved == trained
        return losses

    # Pyro's Adam keeps one optimizer per parameter, so a pause means the same to both.
    assert_same_training(vae, steps)


@pytest.mark.usefixtures("interpreted")
def test_a_parameter_replaced_is_found():
    x = binary()

    def steps(svi, made):
        losses = [svi.step(x)]
        torch.manual_seed(5)
        made.likelihood.net.layers[-1] = nn.Linear(5, SIZE)
        return [*losses, svi.step(x), svi.step(x)]

    assert_same_training(vae, steps)


def normalized():
    """A guide with running statistics, which change in place, and dropout."""
    net = nn.Sequential(nn.BatchNorm1d(SIZE), nn.Dropout(0.5), nn.Linear(SIZE, 2 * LATENTS))
    return vae(guide=pv.guides.MeanFieldNormal(net))


@pytest.mark.usefixtures("interpreted")
def test_running_means_and_dropout_are_those_of_eager_mode():
    x = binary()

    def steps(svi, made):
        losses = [svi.step(x) for _ in range(3)]
        made.eval()
        losses += [svi.step(x) for _ in range(2)]
        made.train()
        return [*losses, svi.step(x)]

    assert_same_training(normalized, steps)


@pytest.mark.usefixtures("interpreted")
def test_a_number_among_the_arguments_is_an_input_not_a_constant():
    made = vae()

    def weighted(program):
        def run(x, weight):
            with poutine.scale(scale=weight):
                return program(x)

        return run

    x = binary()
    svi = SVI(
        weighted(made.model), weighted(made.guide), pyro.optim.Adam({"lr": 0.0}), Trace_ELBO()
    )
    losses = []
    for weight in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0):
        torch.manual_seed(4)
        losses.append(svi.step(x, weight))
    assert losses == pytest.approx([2 * losses[0] * i for i in (0.5, 1, 2, 3, 4, 5)], rel=1e-5)
    assert [graph.runs for graph in svi._graphs] == [4]


@pytest.mark.usefixtures("interpreted")
def test_our_kl_weight_is_an_input_too():
    made = vae()
    weight = pv.handlers.kl_weight(1.0)
    still = pyro.optim.Adam({"lr": 0.0})
    svi = SVI(weight(made.model), weight(made.guide), still, TraceMeanField_ELBO())
    x, losses = binary(), []
    for beta in (0.0, 1.0, 3.0, 2.0, 5.0):
        weight.beta = beta
        torch.manual_seed(4)
        losses.append(svi.step(x))
    assert len(svi._graphs) == 1
    gained = [loss - losses[0] for loss in losses]
    assert gained == pytest.approx([gained[1] * beta for beta in (0, 1, 3, 2, 5)], rel=1e-4)


def test_control_flow_on_a_sample_stays_eager_and_says_where():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if z > 0:  # the line
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", dist.Normal(loc, 1.0))

    torch.manual_seed(0)
    svi = SVI(model, guide, adam(), Trace_ELBO())
    said = r"test_svi.py:\d+: if z > 0:  # the line .*torch.where keeps it in the graph"
    with pytest.warns(UserWarning, match=said) as met:
        [svi.step() for _ in range(40)]
    assert met[0].filename == __file__
    assert len(met) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [svi.step() for _ in range(40)]
    assert all(math.isfinite(loss) for loss in losses)


def test_structure_that_changes_between_recordings_stays_eager():
    calls = []

    def model(x):
        calls.append(x)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * len(calls), 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0))

    svi = SVI(model, guide, adam(), Trace_ELBO())
    with pytest.warns(UserWarning, match=r"change calls \(in model\) as they run"):
        [svi.step(torch.zeros(3)) for _ in range(4)]


def test_sites_that_carry_their_provenance_stay_eager():
    """TraceGraph_ELBO follows discrete sites by a subclass of tensor that cannot be recorded."""
    _, wanted, _ = train(
        pyro.infer.SVI, lambda: (*score_function(), TraceGraph_ELBO(), (torch.randn(ROWS),))
    )
    with pytest.warns(UserWarning, match="runs its steps uncompiled"):
        _, losses, _ = train(
            SVI, lambda: (*score_function(), TraceGraph_ELBO(), (torch.randn(ROWS),))
        )
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("growth", [0.0, 0.1], ids=["as it is", "with a number that changes"])
def test_a_step_of_too_many_operations_is_not_compiled_and_says_so(monkeypatch, growth):
    """It is recorded once, whatever might be tried for a number that changes."""
    traced = []
    trace = capture._trace
    monkeypatch.setattr(capture, "LARGEST", 100)
    monkeypatch.setattr(capture, "_trace", lambda *args: (traced.append(1), trace(*args))[1])

    def losses(*, compiled):
        with pv.seeded(0):
            made = vae()

            def guide(x, weight):
                with poutine.scale(scale=weight):
                    made.guide(x)

            def model(x, weight):
                with poutine.scale(scale=weight):
                    made.model(x)

            svi = SVI(model, guide, adam(), Trace_ELBO(), compile=compiled)
            return [svi.step(torch.zeros(5, SIZE), 1 + growth * step) for step in range(6)]

    with pytest.warns(UserWarning, match="uncompiled: more than 100 operations would take min"):
        found = losses(compiled=True)
    assert found == losses(compiled=False)
    assert len(traced) == 1


@pytest.mark.usefixtures("interpreted")
def test_shapes_of_too_many_operations_leave_the_others_compiled(monkeypatch):
    """Short sequences have a graph, long ones none; both are the steps of Pyro."""

    def losses(kind, **settings):
        with pv.seeded(0):
            loc = torch.nn.Parameter(torch.tensor(0.5))

            def model(x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    for t in range(x.shape[1]):
                        z = (z + 0.1 * t).tanh()
                        pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[:, t])

            def guide(x):
                pyro.param("loc", loc)
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(loc, 1.0))

            pyro.clear_param_store()
            svi = kind(model, guide, adam(), Trace_ELBO(), **settings)
            lengths = (2, 30, 30, 2, 2, 30, 2, 40, 40)
            found = [svi.step(torch.ones(3, length)) for length in lengths]
        return found, svi

    monkeypatch.setattr(capture, "LARGEST", 150)
    with pytest.warns(UserWarning, match="of such shapes uncompiled: more than 150 op") as said:
        found, svi = losses(SVI)
    assert found == pytest.approx(losses(pyro.infer.SVI)[0], rel=1e-5)
    assert len(said) == 1
    assert [graph.runs for graph in svi.graphs] == [3]
    assert len(svi._too_large) == 2
    assert [step.key[-1] for step in svi._observations] == [svi.graphs[0].key[-1]]  # none is large
    copy.deepcopy(svi).step(torch.ones(3, 2))


@pytest.mark.usefixtures("interpreted")
def test_the_operations_of_a_step_are_counted_as_those_of_its_graph(monkeypatch):
    """Reads of shapes, of which programs have many, are none: a step of the limit is compiled."""

    def compiled():
        with pv.seeded(0):
            hidden = [4] * 5
            made = pv.VAE(
                pv.priors.StandardNormal(LATENTS),
                pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, *hidden, SIZE)),
                pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, *hidden, 2 * LATENTS)),
            )
            svi = SVI(made.model, made.guide, adam(), Trace_ELBO())
            for _ in range(3):
                svi.step(torch.zeros(5, SIZE))
        return bool(svi.graphs)

    counted, check = [], capture._check_size
    monkeypatch.setattr(capture, "_check_size", counted.append)
    assert compiled()
    monkeypatch.setattr(capture, "_check_size", check)
    monkeypatch.setattr(capture, "LARGEST", counted[-1])
    assert compiled()
    monkeypatch.setattr(capture, "LARGEST", counted[-1] - 1)
    with pytest.warns(UserWarning, match=f"uncompiled: more than {counted[-1] - 1} operations"):
        assert not compiled()


def graph_of_rows(svi, x):
    """Take two steps: Pyro's, and one that is recorded."""
    before = len(svi._graphs)
    svi.step(x)
    svi.step(x)
    assert len(svi._graphs) == before + 1


@pytest.mark.usefixtures("interpreted")
def test_more_shapes_than_graphs_stay_eager():
    made = vae()
    svi = SVI(made.model, made.guide, adam(), TraceMeanField_ELBO())
    x = torch.zeros(MAX_GRAPHS + 1, SIZE)
    for n in range(1, MAX_GRAPHS + 1):
        graph_of_rows(svi, x[:n])
    with pytest.warns(UserWarning, match=f"more than {MAX_GRAPHS} shapes") as met:
        svi.step(x)
    assert met[0].filename == __file__
    svi.step(x)  # is warned of no more
    assert len(svi._graphs) == MAX_GRAPHS
    runs = sum(graph.runs for graph in svi._graphs)
    for n in range(1, MAX_GRAPHS + 1):
        svi.step(x[:n])
    assert sum(graph.runs for graph in svi._graphs) == runs + MAX_GRAPHS


@pytest.mark.usefixtures("interpreted")
def test_an_argument_that_is_no_tensor_and_has_no_hash_stays_eager():
    made = vae()

    def model(x, weights):
        with poutine.scale(scale=float(weights[1])):
            made.model(x)

    def guide(x, weights):
        made.guide(x)

    def step(kind):
        torch.manual_seed(0)
        svi = kind(model, guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
        return svi.step(binary(), np.array([1.0, 0.5]))

    with pytest.warns(UserWarning, match="an argument is ndarray: give a tensor") as met:
        loss = step(SVI)
    assert met[0].filename == __file__
    assert loss == step(pyro.infer.SVI)


@pytest.mark.usefixtures("interpreted")
def test_a_number_among_doubles_is_a_double():
    """In single precision 0.1 is off by 1.5e-9, and so is what it multiplies."""
    made, x = vae().double(), binary().double()

    def model(x, weight):
        with poutine.scale(scale=weight):
            made.model(x)

    def guide(x, weight):
        with poutine.scale(scale=weight):
            made.guide(x)

    losses = []
    for kind in (SVI, pyro.infer.SVI):
        svi = kind(model, guide, pyro.optim.SGD({"lr": 0.0}), TraceMeanField_ELBO())
        torch.manual_seed(0)
        losses.append(svi.step(x, 0.1))
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def test_a_step_that_cannot_be_compiled_stays_eager_with_one_line(monkeypatch):
    def no_compiler(graph, **options):
        def fail(*inputs):
            raise RuntimeError("InvalidCxxCompiler: no C++ compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match="cannot be compiled here .*no C\\+\\+ compiler"):
        svi, losses, _ = train(SVI, lambda: mean_field(TraceMeanField_ELBO()), steps=3)
    wanted = train(pyro.infer.SVI, lambda: mean_field(TraceMeanField_ELBO()), steps=3)[1]
    assert losses == pytest.approx(wanted, rel=1e-5)


def test_switched_off_it_is_pyros():
    def uncompiled(*arguments):
        return SVI(*arguments, compile=False)

    _, losses, _ = train(uncompiled, PROGRAMS["flow guide"])
    wanted = train(pyro.infer.SVI, PROGRAMS["flow guide"])[1]
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.usefixtures("interpreted")
def test_evaluate_loss_is_pyros():
    made, x = vae(), binary()
    ours = SVI(made.model, made.guide, adam(), Trace_ELBO())
    theirs = pyro.infer.SVI(made.model, made.guide, adam(), Trace_ELBO())
    torch.manual_seed(3)
    loss = ours.evaluate_loss(x)
    torch.manual_seed(3)
    assert loss == theirs.evaluate_loss(x)


class Constant:
    """A model with a network that it registers by itself, and a whole number as argument."""

    def __init__(self):
        self.net = nn.Linear(1, 1)

    def model(self, x, n):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(self.net(x) * n, 1.0).to_event(1), obs=x)

    def svi(self, model=None, kind=SVI):
        still = pyro.optim.SGD({"lr": 0.0})
        return kind(model or self.model, lambda *_: None, still, Trace_ELBO())


@pytest.mark.usefixtures("interpreted")
def test_another_whole_number_is_another_graph():
    made, x = Constant(), torch.randn(4, 1)
    ours, pyros = made.svi(), made.svi(kind=pyro.infer.SVI)
    for n in (1, 2, 3):
        assert ours.step(x, n) == pytest.approx(pyros.step(x, n))
    assert ours.compiled


@pytest.mark.usefixtures("interpreted")
def test_a_step_under_autocast_is_eager():
    made, x, seen = Constant(), torch.randn(4, 1), set()
    svi = made.svi()
    svi.step(x, 1)
    made.net.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="autocast"):
        svi.step(x, 1)
    assert seen == {torch.bfloat16}


@pytest.mark.usefixtures("interpreted")
def test_a_number_that_python_changes_is_not_frozen():
    made, calls = Constant(), []

    def model(x):
        calls.append(x)
        made.model(x, torch.tensor(float(len(calls))))

    svi = made.svi(model)
    with pytest.warns(UserWarning, match=r"change calls \(in model\) as they run"):
        [svi.step(torch.randn(4, 1)) for _ in range(4)]
    assert not svi.compiled


def test_an_optimizer_that_has_a_state_is_kept():
    made, optim = Constant(), pyro.optim.Adam({"lr": 0.1})
    programs = (made.model, lambda *_: None, optim, Trace_ELBO())
    pyro.infer.SVI(*programs).step(torch.randn(4, 1), 1)
    assert SVI(*programs).optim is optim
