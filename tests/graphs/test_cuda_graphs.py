"""A replayed step is the ordinary one: the same losses, the same parameters, no Python between.

Here CUDA graphs are acted out on the CPU (`emulated`); `test_cuda.py` runs them where a GPU is.
"""

import math
import warnings

import pyro
import pytest
import torch
from emulated import EmulatedGraph, Ordinary, capturing
from programs import PROGRAMS, ROWS, SIZE, adam, binary, state, train, vae
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.graphs.cuda import WARM_UP, settings_of
from pyrovae.objectives.handlers import kl_weight
from pyrovae.train.svi import SVI

STEPS = 12


def replays(steps):
    """Count the replays among steps: not Pyro's first, nor those before the capture.

    The runs of a graph that are powers of two are held beside Pyro's step.
    """
    runs = range(WARM_UP + 2, steps)
    return sum(run & (run - 1) != 0 for run in runs)


@pytest.fixture
def graphs(monkeypatch, interpreted):
    """Let the step think that it is on a GPU, and gather the graphs that it captures."""
    made = []

    def graph():
        made.append(EmulatedGraph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr("pyrovae.train.svi.gpu_in_use", lambda: True)
    for module in ("svi", "optimizers"):
        monkeypatch.setattr(f"pyrovae.train.{module}.on_gpu", lambda tensors: True)
    yield made
    pyro.clear_param_store()


@pytest.mark.parametrize("name", PROGRAMS)
def test_replayed_steps_are_ordinary_ones(graphs, name):
    _, losses, values = train(SVI, PROGRAMS[name], steps=STEPS)
    assert [graph.replays for graph in graphs] == [replays(STEPS)]
    _, wanted_losses, wanted = train(Ordinary, PROGRAMS[name], steps=STEPS)
    assert losses == wanted_losses
    assert all(map(torch.equal, values, wanted))


def stepped(kind, make_optim, between, **options):
    """Take steps on data that differ from step to step, with something done before each."""
    torch.manual_seed(0)
    made = vae()
    svi = kind(made.model, made.guide, make_optim(made), TraceMeanField_ELBO(), **options)
    torch.manual_seed(1)
    losses = []
    for i in range(STEPS):
        between(svi, i)
        losses.append(svi.step(binary()))
    return losses, state(made)


def assert_equal(found, wanted):
    """Hold losses and parameters against those of ordinary steps, to the bit."""
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


def nothing(svi, i):
    pass


OPTIMISERS = {
    "pyro Adam": lambda _: adam(),
    "capturable, of torch": lambda made: torch.optim.Adam(
        made.parameters(), lr=0.01, fused=True, capturable=True
    ),
    "not capturable": lambda made: torch.optim.SGD(made.parameters(), lr=0.01, momentum=0.9),
    "counts on the CPU": lambda made: torch.optim.Adam(made.parameters(), lr=0.01),
    "one for each parameter": lambda _: pyro.optim.ClippedAdam({"lr": 0.01}),
    "pyro scheduler": lambda _: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
    ),
}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_every_optimizer_takes_its_steps(graphs, optim, clip_norm):
    found = stepped(SVI, optim, nothing, clip_norm=clip_norm)
    assert graphs[0].replays == replays(STEPS)
    assert_equal(found, stepped(Ordinary, optim, nothing, clip_norm=clip_norm))


def test_the_optimizer_is_in_the_graph_if_it_is_capturable(graphs):
    stepped(SVI, OPTIMISERS["pyro Adam"], nothing)
    names = [str(operation) for operation, *_ in graphs[0].operations]
    assert any("adam" in name for name in names)
    stepped(SVI, OPTIMISERS["not capturable"], nothing)
    names = [str(operation) for operation, *_ in graphs[1].operations]
    assert not any("foreach" in name for name in names)


def test_a_learning_rate_that_is_a_tensor_changes_inside_the_graph(graphs):
    """The rates of Pyro's optimizers are numbers, kept in one tensor on the GPU."""

    def lower(svi, i):
        for made in svi.optim.optim_objs.values():
            made.param_groups[0]["lr"] *= 0.5

    losses, parameters = stepped(SVI, lambda _: adam(), lower)
    assert len(graphs) == 1
    wanted_losses, wanted = stepped(Ordinary, lambda _: adam(), lower)
    assert losses == pytest.approx(wanted_losses, rel=1e-6)
    torch.testing.assert_close(parameters, wanted, rtol=1e-6, atol=1e-7)


def test_a_learning_rate_that_is_a_number_takes_the_optimizer_out_of_the_graph(graphs):
    def lower(svi, i):
        if i:
            svi.optim.optimizer.param_groups[0]["lr"] *= 0.5

    def optim(made):
        return torch.optim.Adam(made.parameters(), lr=0.01, fused=True, capturable=True)

    found = stepped(SVI, optim, lower)
    assert len(graphs) == 2
    assert_equal(found, stepped(Ordinary, optim, lower))


def test_a_learning_rate_that_the_cpu_holds_is_a_number_told_at_the_capture():
    """Torch's kernels read a rate of their GPU, and are told that of the CPU once."""
    optim = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=torch.tensor(0.01))
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    told, read = settings_of(optim, gpu), settings_of(optim, cpu)
    optim.param_groups[0]["lr"].mul_(0.5)
    assert settings_of(optim, gpu) != told
    assert settings_of(optim, cpu) == read


def test_a_norm_that_is_set_anew_clips_from_then_on(graphs):
    def tighten(svi, i):
        if i == 6:
            svi.clip_norm = 1e-3

    def optim(made):
        return torch.optim.SGD(made.parameters(), lr=0.01)

    for make in (lambda _: adam(), optim):
        found = stepped(SVI, make, tighten, clip_norm=10.0)
        assert_equal(found, stepped(Ordinary, make, tighten, clip_norm=10.0))
    assert len(graphs) == 4


@pytest.mark.parametrize("optim", ["pyro Adam", "capturable, of torch"])
def test_a_state_that_is_put_back_is_used(graphs, optim):
    kept = {}

    def rewind(svi, i):
        made = svi.optim.optim_objs or {"": getattr(svi.optim, "optimizer", None)}
        for name, optimizer in made.items():
            if i == 2:
                kept[name] = _copied(optimizer.state_dict())
            if i == 6:
                optimizer.load_state_dict(_copied(kept[name]))

    found = stepped(SVI, OPTIMISERS[optim], rewind)
    assert_equal(found, stepped(Ordinary, OPTIMISERS[optim], rewind))
    assert len(graphs) == 2


def test_a_capture_leaves_no_gradients(graphs):
    torch.manual_seed(0)
    made, x = vae(), binary()
    descent = torch.optim.SGD(made.parameters(), lr=0.01)
    svi = SVI(made.model, made.guide, descent, TraceMeanField_ELBO())
    for _ in range(WARM_UP + 2):
        svi.step(x)
    assert len(graphs) == 1
    assert not any(parameter.grad.any() for parameter in made.parameters())


def _copied(tree):
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree
    )


def test_parameters_that_moved_are_found(graphs):
    def move(svi, i):
        if i == 5:
            for parameter in svi.model.__self__.parameters():
                parameter.data = parameter.data + 0.1

    found = stepped(SVI, lambda _: adam(), move)
    assert_equal(found, stepped(Ordinary, lambda _: adam(), move))


def test_each_shape_has_a_graph(graphs):
    def run(kind):
        torch.manual_seed(0)
        made = vae()
        svi = kind(made.model, made.guide, adam(), TraceMeanField_ELBO())
        rows = [ROWS, 4] * STEPS
        return [svi.step(binary()[:n]) for n in rows], state(made)

    found = run(SVI)
    assert [graph.replays for graph in graphs] == [replays(STEPS)] * 2
    assert_equal(found, run(Ordinary))


@pytest.mark.parametrize("stands", [True, False], ids=["on the GPU", "on the CPU"])
def test_a_kl_weight_changes_between_replays(graphs, monkeypatch, stands):
    """A weight that the CPU holds is copied into the graph's memory before each replay."""
    if not stands:
        monkeypatch.setattr(
            "pyrovae.graphs.cuda.CudaStep._in_place",
            lambda _, tensor: tensor.clone() if tensor.ndim == 0 else tensor,
        )

    def run(kind):
        weight = kl_weight(0.0)

        torch.manual_seed(0)
        made = vae()
        model, guide = weight.wrap(made.model, made.guide)
        svi = kind(model, guide, adam(), TraceMeanField_ELBO())
        losses = []
        for i in range(STEPS):
            weight.beta = 0.1 * i
            losses.append(svi.step(binary()))
        return losses, state(made)

    found = run(SVI)
    assert [graph.replays for graph in graphs] == [replays(STEPS - 1)]
    assert_equal(found, run(Ordinary))


def test_losses_that_wait_keep_their_values(graphs):
    def run(read):
        torch.manual_seed(0)
        made = vae()
        svi = SVI(made.model, made.guide, adam(), TraceMeanField_ELBO())
        x = binary()
        for _ in range(5):
            svi.step(x)
        return [read(svi.launch(x)) for _ in range(3)]

    waiting = run(lambda loss: loss)
    assert [loss.item() for loss in waiting] == run(lambda loss: loss.item())


def test_running_means_run_on(graphs):
    def run(kind):
        torch.manual_seed(0)
        made = vae(
            guide=pv.guides.MeanFieldNormal(nn.Sequential(nn.Linear(SIZE, 6), nn.BatchNorm1d(6)))
        )
        svi = kind(made.model, made.guide, adam(), TraceMeanField_ELBO())
        return [svi.step(binary()) for _ in range(STEPS)], state(made)

    found = run(SVI)
    assert graphs[0].replays == replays(STEPS)
    assert_equal(found, run(Ordinary))


def test_what_the_cpu_has_to_do_anew_is_never_captured(graphs, monkeypatch):
    monkeypatch.setattr("pyrovae.graphs.capture.gpu_among", lambda _: torch.device("cpu"))
    with pytest.warns(UserWarning, match="the CPU has a part in them, aten.normal") as met:
        found = stepped(SVI, lambda _: adam(), nothing)
    assert len(met) == 1
    assert met[0].filename == __file__
    assert graphs == []
    assert_equal(found, stepped(Ordinary, lambda _: adam(), nothing))


def test_a_capture_that_is_refused_is_said_once(graphs, monkeypatch):
    def refuse(graph, **_):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.warns(UserWarning, match="without a CUDA graph: CUDA error: operation") as met:
        found = stepped(SVI, lambda _: adam(), nothing)
    assert len(met) == 1
    assert met[0].filename == __file__
    assert_equal(found, stepped(Ordinary, lambda _: adam(), nothing))


class LastLoss(pv.Callback):
    """Note the loss of the last step as each epoch ends."""

    def __init__(self):
        self.met = []

    def finished_epoch(self, training):
        """Note it."""
        self.met.append(training.loss)


def fitted(x, last, epochs=3):
    torch.manual_seed(0)
    made = vae()
    history = pv.fit(
        made, x, epochs=epochs, batch_size=5, callbacks=[last], step=pv.Step(compile=True)
    )
    return history, made


def test_fit_reads_the_losses_of_an_epoch_at_once(graphs, monkeypatch):
    x = torch.bernoulli(torch.full((40, SIZE), 0.4))
    last, wanted_last = LastLoss(), LastLoss()
    history, made = fitted(x, last)
    assert graphs[0].replays == replays(3 * 8)
    monkeypatch.setattr("pyrovae.train.svi.gpu_in_use", lambda: False)
    wanted_history, wanted = fitted(x, wanted_last)
    assert last.met == pytest.approx(wanted_last.met, rel=1e-6)
    for name in ("loss", "elbo", "rate"):
        assert history.column(name) == pytest.approx(wanted_history.column(name), rel=1e-6)
    assert torch.equal(state(made), state(wanted))


def test_fit_puts_a_diverged_epoch_back(graphs):
    """The rate is driven up until a step of the third epoch breaks: the second epoch's stay."""
    x = torch.bernoulli(torch.full((40, SIZE), 0.4))
    torch.manual_seed(0)
    made, optim = vae(), adam()
    kept = []

    class Drive(pv.Callback):
        def finished_epoch(self, training):
            kept.append(training.snapshot())

        def stepped(self, training):
            if training.step == 18:
                for parameter in made.parameters():
                    parameter.data.fill_(math.inf)

    with pytest.raises(
        pv.NonFiniteLoss, match=r"at step 19 \(epoch 3\): losses on a GPU are read"
    ):
        pv.fit(
            made,
            x,
            epochs=3,
            batch_size=5,
            callbacks=[Drive()],
            step=pv.Step(compile=True, optim=optim),
        )
    assert len(kept) == 2
    for name, parameter in made.named_parameters():
        assert any(torch.equal(parameter, value) for value in kept[1].values()), name


def test_the_cpu_never_asks_for_a_graph(monkeypatch, interpreted):
    def fail(*_):
        raise AssertionError("CUDA was touched")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", fail)
    monkeypatch.setattr(torch.cuda, "graph", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepped(SVI, lambda _: adam(), nothing)
    assert not torch.cuda.is_initialized()


RATE = pv.learning_rates.cosine(0.05, STEPS, warmup=4)
GROUPS = {"*.bias": {"weight_decay": 0.0}, "likelihood.*": {"lr": 0.002}}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_schedule_changes_the_rates_inside_the_graph(graphs, clip_norm):
    """The rates of `Optim` lie in tensors of the GPU, which are written before each replay."""

    def optim(_):
        return pv.Optim(torch.optim.AdamW, lr=RATE, weight_decay=0.1, groups=GROUPS)

    found = stepped(SVI, optim, nothing, clip_norm=clip_norm)
    assert [graph.replays for graph in graphs] == [replays(STEPS)]
    assert any("adam" in str(operation) for operation, *_ in graphs[0].operations)
    assert_equal(found, stepped(Ordinary, optim, nothing, clip_norm=clip_norm))


def test_several_optimizers_step_after_the_graph(graphs):
    others = {lambda name, p: p.ndim != 2: {"optimizer": torch.optim.AdamW}}

    def optim(_):
        return pv.Optim(torch.optim.Muon, lr=RATE, groups=others)

    found = stepped(SVI, optim, nothing)
    assert graphs[0].replays == replays(STEPS)
    assert_equal(found, stepped(Ordinary, optim, nothing))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_the_norm_of_each_gradient_is_read_from_the_graph(graphs, clip_norm):
    norms = {SVI: [], Ordinary: []}
    for kind, found in norms.items():

        def keep(svi, i, found=found):
            svi.norm.measured = True
            found.append(svi.norm.value.item())

        stepped(kind, lambda _: pv.Optim(torch.optim.Adam, lr=0.01), keep, clip_norm=clip_norm)
    assert norms[SVI][1:] == norms[Ordinary][1:]
    assert len(set(norms[SVI][1:])) == STEPS - 1
