"""`pyrovae.SVI` is `pyro.infer.SVI`: losses and parameters over ten steps, from one seed.

Tables of every autoguide, objective, optimizer and scheduler of Pyro, and of the ways to hold a
parameter or a number, each eager and as a recorded graph. Adam divides by the gradient's size, so
a gradient of rounding alone moves a parameter: 1e-4 of a step of 0.01 is allowed.
"""

import copy
import ctypes
import itertools
import math
import random
import warnings

import numpy as np
import pyro
import pyro.contrib.gp
import pyro.distributions as dist
import pytest
import torch
from programs import adam
from pyro import poutine
from pyro.infer import (
    EnergyDistance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
    autoguide,
)
from pyro.nn import PyroModule, PyroParam, pyro_method
from steps import STEPS, Heads, Local, X, eager, guide, local, model, trained
from torch import nn

import pyrovae as pv
from pyrovae.train.svi import SVI

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


def assert_pyros(make, *, compiled=None, steps=STEPS):
    """Hold a training against Pyro's, eager and as a graph; tell whether a graph was kept."""
    _, wanted_losses, wanted = trained(pyro.infer.SVI, make, steps=steps)
    for kind in (eager, SVI):
        svi, losses, values = trained(kind, make, steps=steps)
        torch.testing.assert_close(losses, wanted_losses, rtol=1e-4, atol=1e-4)
        for name in values.keys() & wanted.keys():
            torch.testing.assert_close(values[name], wanted[name], rtol=1e-3, atol=1e-4)
        assert set(pyro.get_param_store()) <= set(wanted)
    if compiled is not None:
        assert bool(svi._graphs) is compiled


def around(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def at(x):
    pyro.sample("mu", dist.Normal(pyro.param("loc", torch.zeros(2)), 0.5).to_event(1))


def mixture(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("x", dist.Normal(2.0 * c.unsqueeze(-1), 1.0).to_event(1), obs=x)


def classes(x):
    logits = pyro.param("logits", torch.zeros(12, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(logits=logits))


def listed(model):
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoNormal(poutine.block(model, expose=["mu"])))
    guides.append(autoguide.AutoDelta(poutine.block(model, expose=["scale"])))
    return guides


AUTOGUIDES = {
    name: getattr(autoguide, name)
    for name in (
        "AutoDelta",
        "AutoNormal",
        "AutoDiagonalNormal",
        "AutoMultivariateNormal",
        "AutoLowRankMultivariateNormal",
        "AutoIAFNormal",
        "AutoLaplaceApproximation",
        "AutoGaussian",
        "AutoStructured",
        "AutoNormalMessenger",
        "AutoHierarchicalNormalMessenger",
        "AutoRegressiveMessenger",
    )
}
AUTOGUIDES["AutoGuideList"] = listed
AUTOGUIDES["AutoNormalizingFlow"] = lambda model: autoguide.AutoNormalizingFlow(
    model, lambda n: dist.transforms.affine_autoregressive(n)
)


@pytest.mark.parametrize("make", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_every_autoguide(make):
    assert_pyros(lambda kind: kind(model, make(model), adam(), Trace_ELBO()))


@pytest.mark.parametrize("make", [autoguide.AutoNormal, autoguide.AutoDelta])
def test_an_autoguide_after_its_store_is_cleared(make):
    """Pyro's guides of modules keep their parameters, and a function's are made anew."""

    def training(kind):
        made = make(model)
        svi = kind(model, made, adam(), Trace_ELBO())

        def step(svi, i):
            if i == 5:
                pyro.clear_param_store()
            return svi.step(X)

        return svi, step

    assert_pyros(training)


PROGRAMS = {"a function": lambda: guide, "an autoguide": lambda: autoguide.AutoNormal(model)}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_store_that_is_saved_and_loaded(make, tmp_path):
    def training(kind):
        svi = kind(model, make(), pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())

        def step(svi, i):
            if i == 3:
                pyro.get_param_store().save(tmp_path / "store")
            if i == 6:
                pyro.clear_param_store()
                pyro.get_param_store().load(tmp_path / "store")
            return svi.step(X)

        return svi, step

    assert_pyros(training)


@pytest.mark.parametrize("at", [1, 5])
def test_a_copy_of_the_svi_trains_on_alone(at):
    def training(kind):
        made = autoguide.AutoNormal(model)
        held = [kind(model, made, adam(), Trace_ELBO())]

        def step(svi, i):
            if i == at:
                held[0] = copy.deepcopy(held[0])
            return held[0].step(X)

        return held[0], step

    assert_pyros(training)


OBJECTIVES = {
    "Trace_ELBO": (Trace_ELBO, model, guide),
    "particles": (lambda: Trace_ELBO(num_particles=3), model, guide),
    "vectorized": (
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        model,
        guide,
    ),
    "TraceGraph_ELBO": (TraceGraph_ELBO, model, guide),
    "TraceMeanField_ELBO": (TraceMeanField_ELBO, model, guide),
    "TraceEnum_ELBO": (
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
        mixture,
        pyro.infer.config_enumerate(classes, "parallel"),
    ),
    "TraceTMC_ELBO": (
        lambda: TraceTMC_ELBO(max_plate_nesting=1),
        mixture,
        pyro.infer.config_enumerate(classes, "parallel"),
    ),
    "TraceTailAdaptive_ELBO": (
        lambda: TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True),
        model,
        guide,
    ),
    "RenyiELBO": (lambda: RenyiELBO(alpha=0.5, num_particles=3), model, guide),
    "ReweightedWakeSleep": (lambda: ReweightedWakeSleep(num_particles=3), model, guide),
    "EnergyDistance": (lambda: EnergyDistance(num_particles=3), model, guide),
    "Trace_MMD": (
        lambda: Trace_MMD(
            kernel=pyro.contrib.gp.kernels.RBF(input_dim=2),
            num_particles=3,
            vectorize_particles=True,
            max_plate_nesting=1,
        ),
        around,
        at,
    ),
    "score function": (Trace_ELBO, mixture, classes),
    "a function": (lambda: TraceMeanField_ELBO().differentiable_loss, model, guide),
}


@pytest.mark.parametrize("case", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.filterwarnings("ignore:pyrovae.SVI runs its steps uncompiled")
def test_every_objective(case):
    loss, *programs = case
    assert_pyros(lambda kind: kind(*programs, pyro.optim.Adam({"lr": 0.01}), loss()))


EXTRA = {"LR": {}, "SGD": {"momentum": 0.9}}
OPTIMISERS = sorted(
    name
    for name in (
        *pyro.optim.pytorch_optimizers.__all__,
        "ClippedAdam",
        "DCTAdam",
        "AdagradRMSProp",
    )
    if name not in ("SparseAdam", "Muon")
    and "LR" not in name
    and "Scheduler" not in name
    and name in {*vars(torch.optim), "ClippedAdam", "DCTAdam", "AdagradRMSProp"}
)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimizer(name):
    arguments = {} if name == "AdagradRMSProp" else {"lr": 0.01}
    made = getattr(pyro.optim, name)
    extra = {"momentum": 0.9} if name == "SGD" else {}
    assert_pyros(lambda kind: kind(model, guide, made({**arguments, **extra}), Trace_ELBO()))


SCHEDULERS = {
    "StepLR": {"step_size": 2},
    "ExponentialLR": {"gamma": 0.7},
    "MultiStepLR": {"milestones": [2, 4]},
    "CosineAnnealingLR": {"T_max": 5},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 20, "cycle_momentum": False},
    "LambdaLR": {"lr_lambda": lambda n: 1 / (1 + n)},
    "ConstantLR": {"total_iters": 3},
    "LinearLR": {"total_iters": 3},
    "PolynomialLR": {"total_iters": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
    "MultiplicativeLR": {"lr_lambda": lambda n: 0.9},
    "ReduceLROnPlateau": {"patience": 0},
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_every_scheduler(name, kind):
    def training(make):
        arguments = {"optimizer": getattr(torch.optim, kind), "optim_args": {"lr": 0.01}}
        optim = getattr(pyro.optim, name)({**arguments, **SCHEDULERS[name]})

        def step(svi, i):
            loss = svi.step(X)
            optim.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            return loss

        return make(model, guide, optim, Trace_ELBO()), step

    assert_pyros(training)


def by_name(name):
    return {"lr": 0.05 if name == "loc" else 0.001}


class Registered:
    """An optimizer with a hook on each of its parts, which counts the steps."""

    def __init__(self):
        self.steps = 0

    def __call__(self, optimizer, args, kwargs):
        self.steps += 1


OPTIMS = {
    "by the parameter's name": lambda: pyro.optim.Adam(by_name),
    "clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.1}),
    "values clipped": lambda: pyro.optim.SGD({"lr": 0.01}, {"clip_value": 0.1}),
    "weight decay": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.3}),
    "amsgrad": lambda: pyro.optim.Adam({"lr": 0.05, "amsgrad": True}),
}


@pytest.mark.parametrize("make", OPTIMS.values(), ids=OPTIMS.keys())
def test_every_way_to_set_an_optimizer(make):
    assert_pyros(lambda kind: kind(model, guide, make(), Trace_ELBO()))


def test_rates_set_through_the_objects_of_an_optimizer():
    def training(kind):
        optim = adam()

        def step(svi, i):
            for made in optim.optim_objs.values():
                made.param_groups[0]["lr"] = 0.02 * (i + 1)
            return svi.step(X)

        return kind(model, guide, optim, Trace_ELBO()), step

    assert_pyros(training, compiled=True)


def test_hooks_of_an_optimizer_are_called():
    def training(kind):
        optim, count = adam(), Registered()

        def step(svi, i):
            loss = svi.step(X)
            if i == 1:
                for made in optim.optim_objs.values():
                    made.register_step_post_hook(count)
            return loss + count.steps

        return kind(model, guide, optim, Trace_ELBO()), step

    assert_pyros(training)


def test_hooks_of_a_gradient_are_called():
    def training(kind):
        seen = []

        def step(svi, i):
            loss = svi.step(X)
            if i == 3:
                for parameter in pyro.get_param_store()._params.values():
                    parameter.register_hook(lambda grad: seen.append(grad.sum().item()))
            return loss + sum(seen)

        return kind(model, guide, adam(), Trace_ELBO()), step

    with pytest.warns(UserWarning, match="hooks on its gradient"):
        assert_pyros(training)


def test_a_gradient_that_is_there_is_added_to():
    def training(kind):
        def step(svi, i):
            for parameter in pyro.get_param_store()._params.values():
                (0.1 * parameter.sum()).backward()
            return svi.step(X)

        return kind(model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()), step

    assert_pyros(training, compiled=True)


def test_gradients_are_left_at_zero():
    svi, *_ = trained(SVI, lambda kind: kind(model, guide, adam(), Trace_ELBO()))
    assert svi._graphs
    grads = [parameter.grad for parameter in pyro.get_param_store()._params.values()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.mark.parametrize("name", ["Adam", "ClippedAdam", "SGD"])
def test_a_head_that_a_step_does_not_use(name):
    def training(kind):
        made = Heads()
        arguments = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
        optim = getattr(pyro.optim, name)(arguments)
        return kind(local, made.guide, optim, Trace_ELBO()), lambda svi, i: svi.step(X, i // 3 % 2)

    assert_pyros(training, compiled=True)


GLOBAL = 0.5
NESTED = {"a": [0.5]}


def numbers():
    """The ways to hold a number: (make, set), where set(made, value) changes it."""

    def attribute(made, value):
        made.weight = value

    def of_class(made, value):
        type(made).kept = value

    def in_list(made, value):
        made.words["weight"][0] = value

    def in_dataclass(made, value):
        made.inner.weight = value

    def in_global(made, value):
        globals()["GLOBAL"] = value

    def in_container(made, value):
        NESTED["a"][0] = value

    cell = [0.5]

    def in_closure(made, value):
        cell[0] = value

    return {
        "an attribute": (attribute, lambda made, x: made(x)),
        "a class's": (of_class, lambda made, x: made(x, weight=made.kept)),
        "a list in a dict": (in_list, lambda made, x: made(x, weight=made.words["weight"][0])),
        "a dataclass": (in_dataclass, lambda made, x: made(x, weight=made.inner.weight)),
        "a global": (in_global, lambda made, x: made(x, weight=GLOBAL)),
        "a container's": (in_container, lambda made, x: made(x, weight=NESTED["a"][0])),
        "a closure's": (in_closure, lambda made, x: made(x, weight=cell[0])),
    }


SCHEDULES = {
    "each step": lambda i: 0.1 * (i + 1),
    "now and then": lambda i: 0.5 + 0.5 * (i // 4),
    "a whole number": lambda i: 1 + i // 5,
    "there and back": lambda i: 0.3 if i // 3 % 2 else 0.7,
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("way", numbers())
def test_every_way_to_hold_a_number(way, schedule):
    put, run = numbers()[way]

    def training(kind):
        made = Local()

        def step(svi, i):
            put(made, schedule(i))
            return svi.step(X)

        return kind(local, lambda x: run(made, x), adam(), Trace_ELBO()), step

    try:
        assert_pyros(training, compiled=True)
    finally:
        put(Local(), 0.5)


ARGUMENTS = {
    "a float": lambda i: ((0.1 * (i + 1),), {}),
    "a keyword": lambda i: ((), {"weight": 0.1 * (i + 1)}),
    "a float that stays": lambda i: ((0.5,), {}),
}


@pytest.mark.parametrize("given", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_every_way_to_give_a_number(given):
    def training(kind):
        made = Local()

        def program(x, weight):
            made(x, weight=weight)

        def step(svi, i):
            args, kwargs = given(i)
            return svi.step(X, *args, **kwargs)

        return kind(lambda x, weight: local(x), program, adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True)


def test_a_float_that_a_program_asks_for_as_a_float():
    """Where a tensor will not do in its place, each value has a graph, and the rest is eager."""

    def training(kind):
        made = Local()

        def program(x, weight):
            made(x, weight={0.5: 1.0, 0.7: 2.0}[weight] if isinstance(weight, float) else 9.0)

        def step(svi, i):
            return svi.step(X, 0.5 if i // 4 % 2 else 0.7)

        return kind(lambda x, weight: local(x), program, adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True, steps=16)


class Batch:
    def __init__(self, x, weight=0.5):
        self.x, self.weight = x, weight


@pytest.mark.parametrize("fresh", [True, False])
def test_an_argument_that_is_an_object(fresh):
    def training(kind):
        made, batch = Local(), Batch(X)

        def step(svi, i):
            batch.x, batch.weight = X + i, 0.1 * (i + 1)
            return svi.step(Batch(batch.x, batch.weight) if fresh else batch)

        def program(batch):
            made(batch.x, weight=batch.weight)

        return kind(lambda batch: local(batch.x), program, adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True)


def test_a_tensor_that_is_rebound():
    def training(kind):
        made, held = Local(), Batch(X)

        def step(svi, i):
            held.x = X + 0.1 * i
            return svi.step()

        return kind(lambda: local(held.x), lambda: made(held.x), adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True)


class Counted(nn.Module):
    """A buffer of one number that a method changes in place, and that Python may read."""

    def __init__(self, read):
        super().__init__()
        self.net, self.read = nn.Linear(2, 2), read
        self.register_buffer("n", torch.zeros(()))

    def guide(self, x):
        pyro.module("net", self.net)
        self.n.add_(1.0)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.read(self.n)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


READS = {
    "as a tensor": (lambda n: (n / 10).clone(), True),
    "as a number": (lambda n: n.item() / 10, False),
    "as what follows": (lambda n: (n / 10).item(), False),
    "in a condition": (lambda n: 1.0 if n > 4 else 0.5, False),
}


@pytest.mark.parametrize("read", READS)
def test_a_buffer_of_a_method(read):
    reading, compiled = READS[read]

    def training(kind):
        made = Counted(reading)
        svi = kind(local, made.guide, adam(), Trace_ELBO())
        return svi, lambda svi, i: svi.step(X) + made.n.item()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not compiled else "error")
        assert_pyros(training, compiled=compiled)


def test_a_number_that_python_reads_from_a_buffer_is_guarded():
    def training(kind):
        made = Local()
        flag = torch.tensor(1.0)

        def program(x):
            made(x, weight=flag.item())

        def step(svi, i):
            flag.fill_(1.0 + i // 4)
            return svi.step(X)

        return kind(local, program, adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True)


def stateful():
    """Programs that change what Python holds, or draw from elsewhere, as they run."""
    numbers, own, numpys = itertools.count(), torch.Generator(), np.random.default_rng(0)

    def counted(made):
        made.weight += 0.1

    def listed(made):
        made.words["weight"].append(0.1)

    def nothing(made):
        pass

    return {
        "a counter": (counted, lambda made, x: made.weight),
        "a list": (listed, lambda made, x: sum(made.words["weight"])),
        "an iterator": (nothing, lambda made, x: 0.1 * (1 + next(numbers))),
        "python's generator": (nothing, lambda made, x: random.random()),
        "numpy's generator": (nothing, lambda made, x: float(np.random.rand())),
        "a generator of numpy's": (nothing, lambda made, x: float(numpys.random())),
        "a generator of torch's": (
            nothing,
            lambda made, x: torch.rand((), generator=own).item(),
        ),
        "a seed": (
            lambda made: torch.manual_seed(3),
            lambda made, x: 0.5,
        ),
    }


@pytest.mark.parametrize("way", stateful())
def test_a_program_that_changes_what_python_holds_stays_pyros(way):
    def training(kind):
        made, (change, weight) = Local(), stateful()[way]

        def program(x):
            change(made)
            made(x, weight=weight(made, x))

        return kind(local, program, adam(), Trace_ELBO())

    with pytest.warns(UserWarning, match="pyrovae.SVI runs its steps uncompiled") as met:
        assert_pyros(training, compiled=False)
    assert len(met) == 1


def test_what_no_guard_sees_is_found_beside_pyros_step():
    """Memory of C's is out of every guard's sight: the second, fourth or eighth run tells."""
    hidden = ctypes.c_double(0.5)

    def training(kind):
        made = Local()

        def program(x):
            made(x, weight=hidden.value)

        def step(svi, i):
            hidden.value = 0.5 if i < 4 else 5.0
            return svi.step(X)

        return kind(local, program, adam(), Trace_ELBO()), step

    with pytest.warns(UserWarning, match="compared with an eager step, the loss is"):
        svi, *_ = trained(SVI, training, steps=12)
    assert not svi.compiled


def test_a_parameter_that_appears_later():
    def training(kind):
        steps = [0]

        def late(x):
            loc = pyro.param("loc", torch.zeros(2))
            if steps[0] >= 5:
                loc = loc + pyro.param("late", lambda: torch.randn(2))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

        def step(svi, i):
            steps[0] = i
            return svi.step(X)

        return kind(local, late, adam(), Trace_ELBO()), step

    assert_pyros(training)


class Amortized(PyroModule):
    """A guide of a PyroModule with a constrained parameter, made at the first step or before."""

    def __init__(self, *, lazily):
        super().__init__()
        self.net = PyroModule[nn.Linear](2, 2)
        width = torch.tensor(0.5)
        self.width = PyroParam(
            (lambda: torch.rand(())) if lazily else width, dist.constraints.positive
        )

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), self.width).to_event(1))

    def forward(self, x):
        self.guide(x)


@pytest.mark.parametrize("lazily", [True, False])
def test_a_pyro_module(lazily):
    assert_pyros(
        lambda kind: kind(local, Amortized(lazily=lazily), adam(), Trace_ELBO()), compiled=True
    )


def test_what_is_replaced_on_the_svi_is_used():
    def training(kind):
        loss = Trace_ELBO(num_particles=1)

        def step(svi, i):
            if i == 4:
                loss.num_particles = 3
            if i == 6:
                svi.guide = autoguide.AutoDelta(model)
            if i == 8:
                svi.loss_and_grads = TraceMeanField_ELBO().loss_and_grads
                svi.optim = pyro.optim.SGD({"lr": 1e-3})
            return svi.step(X)

        return kind(model, guide, loss=loss, optim=adam()), step

    assert_pyros(training, steps=12)


def test_a_mode_that_is_switched():
    def training(kind):
        made = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.Linear(2, 2))

        def program(x):
            pyro.module("net", made)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(made(x), 0.5).to_event(1))

        def step(svi, i):
            made.train(i // 4 % 2 == 0)
            made[0].p = 0.5 if i < 8 else 0.1
            return svi.step(X)

        return kind(local, program, adam(), Trace_ELBO()), step

    assert_pyros(training, compiled=True, steps=14)


def test_no_parameter():
    svi = SVI(lambda: None, lambda: None, adam(), Trace_ELBO())
    assert [svi.step() for _ in range(4)] == [0.0] * 4


def test_validation_refuses_in_pyros_words():
    def outside(x):
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))
        pyro.sample("scale", dist.Normal(pyro.param("at", torch.tensor(-5.0)), 0.1))

    def plated(x):
        for _ in pyro.plate("plate", 10):
            pass
        guide(x)

    for program, words in ((outside, "constraint"), (plated, "plate")):
        svi = SVI(model, program, adam(), Trace_ELBO())
        with pytest.raises(ValueError, match=words):
            svi.step(X)


def test_a_loss_that_is_not_finite_is_said_by_pyro():
    """The step of a graph whose loss is NaN is Pyro's: it refuses the parameters, or warns."""
    svi, *_ = trained(SVI, lambda kind: kind(model, guide, adam(), Trace_ELBO()))
    assert svi._graphs
    with torch.no_grad():
        pyro.get_param_store()._params["loc"].fill_(float("nan"))
    with pytest.raises(ValueError, match="Expected parameter loc"):
        svi.step(X)
    with pyro.validation_enabled(is_validate=False), pytest.warns(UserWarning, match="NaN: loss"):
        svi.step(X)


@pytest.mark.parametrize("where", ["svi", "user"])
def test_states_are_kept_by_the_names_that_were_announced(where):
    """A VAE's parameters are in no store, and have names all the same."""
    torch.manual_seed(0)
    made = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 4, 2)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(2, 4, 4)),
    )
    optim = pyro.optim.Adam(lambda name: {"lr": 0.0 if "posterior" in name else 0.01})
    svi = SVI(made.model, made.guide, optim, Trace_ELBO())
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    for _ in range(3):
        svi.step(X)
    state = (svi.optim if where == "svi" else optim).get_state()
    assert set(state) == set(before)
    for name, parameter in made.named_parameters():
        assert torch.equal(parameter, before[name]) is ("posterior" in name)
    resumed = pyro.optim.Adam({"lr": 0.01})
    resumed.set_state(copy.deepcopy(state))
    SVI(made.model, made.guide, resumed, Trace_ELBO()).step(X)
    counts = {made.state[p]["step"].item() for p, made in resumed.optim_objs.items()}
    assert counts == {4.0}


def test_an_observation_outside_its_support_is_refused_at_any_step():
    """The compiled step asks of its arguments what Pyro's validation asks, if it is on."""

    def counts(x):
        rate = pyro.param("rate", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.tensor([1.0, 2.0, 3.0])
    svi = SVI(counts, lambda x: None, adam(), Trace_ELBO())
    for _ in range(6):
        svi.step(x)
    assert svi._graphs
    with pytest.raises(ValueError, match="within the support"):
        svi.step(x + 0.5)
    with pyro.validation_enabled(is_validate=False):
        assert svi.step(x + 0.5) > 0


def test_a_number_that_no_tensor_can_stand_for_is_named():
    """A whole number that changes at each step would be a graph a step."""

    def training(kind):
        made = Local()

        def program(x):
            made(x, weight=1.0 / (1 + made.epoch))

        def step(svi, i):
            made.epoch = i
            return svi.step(X)

        return kind(local, program, adam(), Trace_ELBO()), step

    with pytest.warns(UserWarning, match=r"Local.epoch changed in nearly every") as met:
        trained(SVI, training, steps=80)
    assert len(met) == 1


def test_shapes_that_never_come_back_are_said():
    x = torch.randn(80, 2)

    def training(kind):
        return kind(model, guide, adam(), Trace_ELBO()), lambda svi, i: svi.step(x[: i + 1])

    with pytest.warns(UserWarning, match="the shape of an argument changed") as met:
        trained(SVI, training, steps=70)
    assert len(met) == 1


@pytest.mark.parametrize("stray", [0.3, -1.0, 2.0, 1e-30, 1 - 2**-24, np.inf, np.nan])
def test_a_pixel_that_is_neither_zero_nor_one_is_refused(stray):
    def pixels(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=logit.expand(3)).to_event(1), obs=x)

    x = torch.tensor([[0.0, 1.0, -0.0], [1.0, 1.0, 0.0]])
    svi = SVI(pixels, lambda x: None, adam(), Trace_ELBO())
    for _ in range(6):
        svi.step(x)
    assert svi._graphs[0].accepts([x])
    x[1, 2] = stray
    with pytest.raises(ValueError, match="within the support"):
        svi.step(x)


class Scaled:
    """Programs whose guide is scaled by a float or by a tensor that changes."""

    def __init__(self, weight):
        self.weight = weight

    def guide(self, x):
        with poutine.scale(scale=2 * self.weight):
            guide(x)

    def set(self, weight):
        if isinstance(self.weight, torch.Tensor):
            self.weight.fill_(weight)
        else:
            self.weight = weight


@pytest.mark.parametrize("weight", [0.0, -0.5])
@pytest.mark.parametrize("make", [float, torch.tensor], ids=["float", "tensor"])
def test_a_scale_that_is_not_positive_is_refused_in_pyros_words(make, weight):
    said = []
    for kind in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        held = Scaled(make(0.5))
        svi = kind(model, held.guide, adam(), Trace_ELBO())
        for i in range(8):
            held.set(0.5 + 0.1 * i)
            svi.step(X)
        before = {n: p.detach().clone() for n, p in pyro.get_param_store().named_parameters()}
        held.set(weight)
        with pytest.raises(ValueError, match="Expected scale > 0 but got") as refused:
            svi.step(X)
        said.append(str(refused.value))
        for name, parameter in pyro.get_param_store().named_parameters():
            assert torch.equal(parameter, before[name])
    assert said[0] == said[1]
    assert [graph.runs > 3 for graph in svi._graphs] == [True]
    held.set(1.5)
    assert math.isfinite(svi.step(X))


def test_a_scale_that_validation_does_not_ask_about_is_pyros():
    """Without validation Pyro takes any tensor for a scale, and so does a step."""
    losses = {}
    for kind in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        held = Scaled(torch.tensor(0.5))
        svi = kind(model, held.guide, adam(), Trace_ELBO())
        with pyro.validation_enabled(is_validate=False):
            losses[kind] = [(held.set(0.5 - i % 2), svi.step(X))[1] for i in range(9)]
    assert svi._graphs
    torch.testing.assert_close(losses[SVI], losses[pyro.infer.SVI], rtol=1e-4, atol=1e-4)


def test_a_sparse_gradient_is_named():
    net = nn.Embedding(12, 2, sparse=True)

    def embedded(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(torch.arange(len(x))), 0.5).to_event(1))

    svi = SVI(local, embedded, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())
    with pytest.warns(UserWarning, match=r"the gradient of net\$\$\$weight is sparse") as met:
        svi.step(X)
    assert len(met) == 1
    assert not svi.compiled
