"""Ways to hold a number that a graph would freeze, and side effects that it would leave out.

The number changes at a step that no graph is held beside Pyro's: only a guard sees it.
"""

import argparse
import array
import collections
import contextlib
import contextvars
import dataclasses
import functools
import io
import logging
import os
import sys
import threading
import types
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import adam
from pyro.infer import Trace_ELBO
from steps import local as model
from steps import weighted as guide
from torch.overrides import TorchFunctionMode

from pyrovae.train.svi import SVI

pytestmark = [
    pytest.mark.usefixtures("interpreted"),
    pytest.mark.filterwarnings("ignore:pyrovae.SVI runs its steps uncompiled"),
]

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(7))
HOLDERS = {}


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


def holder(make):
    HOLDERS[make.__name__] = make
    return make


class Plain:
    pass


class Slotted:
    __slots__ = ("w",)


class Listed(list):
    pass


class Kind(type):
    w = 0.5


class Made(metaclass=Kind):
    pass


class Special:
    def __getattr__(self, name):
        return VALUE

    def __getitem__(self, key):
        return VALUE


class Starting:
    def __init__(self):
        self.w = VALUE


VALUE = 0.5


def set_value(value):
    globals()["VALUE"] = value


for _name, _kept in {
    "slots": Slotted(),
    "argparse": argparse.Namespace(),
    "simple_namespace": types.SimpleNamespace(),
    "threading_local": threading.local(),
    "a_list's_own": Listed(),
    "a_metaclass": Made,
}.items():
    HOLDERS[_name] = lambda kept=_kept: (
        lambda: kept.w,
        lambda value: setattr(Kind if kept is Made else kept, "w", value),
    )

for _name, _whole in {
    "numpy": np.array([0.5]),
    "array": array.array("d", [0.5]),
    "a_record_of_tuples": [(0.5, "a")],
}.items():
    HOLDERS[_name] = lambda whole=_whole: (
        lambda: float(np.ravel(whole[0])[0]),
        lambda v: whole.__setitem__(0, (v, "a") if isinstance(whole, list) else v),
    )

for _name, _mapping in {
    "user_dict": collections.UserDict(),
    "chain": collections.ChainMap(),
}.items():
    HOLDERS[_name] = lambda mapping=_mapping: (
        lambda: mapping["w"],
        lambda v: mapping.update(w=v),
    )

for _name, _read in {
    "getattr": lambda: Special().w,
    "getitem": lambda: Special()["w"],
    "init": lambda: Starting().w,
    "globals": lambda: globals()["VALUE"],
    "a_word": lambda: getattr(sys.modules[__name__], "VALUE"),  # noqa: B009
}.items():
    HOLDERS[_name] = lambda read=_read: (read, set_value)


@holder
def a_full_deque():
    kept = collections.deque([0.5] * 3, maxlen=3)
    return lambda: kept[-1], kept.append


@holder
def a_set():
    kept = set()
    return lambda: max(kept), lambda v: (kept.clear(), kept.add(v))


@holder
def the_environment():
    return (
        lambda: float(os.environ["PYROVAE_TEST"]),
        lambda v: os.environ.__setitem__("PYROVAE_TEST", str(v)),
    )


@holder
def a_weak_reference():
    kept = Plain()
    reference = weakref.ref(kept)
    return lambda: reference().w, lambda v, kept=kept: setattr(kept, "w", v)


@holder
def a_cached_function():
    kept = Plain()
    cached = functools.lru_cache(None)(lambda: kept.w)

    def put(value):
        if getattr(kept, "w", None) != value:
            kept.w = value
            cached.cache_clear()

    return cached, put


@holder
def a_bound_method():
    kept = {}
    return functools.partial(kept.get, "w"), lambda v: kept.update(w=v)


@holder
def a_context_variable():
    kept = contextvars.ContextVar("kept")
    return kept.get, kept.set


@holder
def a_dict_made_anew_and_changed():
    kept = {}

    def put(value):
        if value == 0.5:
            kept["inner"] = {"w": value}
        kept["inner"]["w"] = value

    return lambda: kept["inner"]["w"], put


@holder
def a_module_imported_inside():
    module = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")

    def read():
        from settings_of_a_test import beta

        return beta

    return read, functools.partial(setattr, module, "beta")


@holder
def a_module_in_an_attribute():
    kept = Plain()
    kept.config = types.ModuleType("config_of_a_test")
    return lambda: kept.config.beta, functools.partial(setattr, kept.config, "beta")


@holder
def pyros_store():
    store = pyro.get_param_store()
    return (
        lambda: store["weight"].detach(),
        lambda v: store.__setitem__("weight", torch.tensor(v)),
    )


def losses(kind, make, steps):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi, step = make(kind)
    return [step(svi, i) for i in range(steps)], svi


def assert_pyros(make, steps=8):
    (wanted, _), (found, svi) = (losses(kind, make, steps) for kind in (pyro.infer.SVI, SVI))
    assert found == pytest.approx(wanted, rel=1e-4)
    return svi


@pytest.mark.parametrize("name", HOLDERS)
def test_a_number_held_anywhere_is_guarded(name):
    get, put = HOLDERS[name]()

    def training(kind):
        put(0.5)

        def step(svi, i):
            put(0.5 if i < 5 else 2.0)
            return svi.step(X)

        return kind(model, lambda x: guide(x, get()), adam(), Trace_ELBO()), step

    assert_pyros(training)


TRAININGS = {}


def training(make):
    TRAININGS[make.__name__] = make
    return make


@training
def a_module_that_is_not_announced(kind):
    net = torch.nn.Linear(2, 2)
    own = torch.optim.SGD(net.parameters(), 1e-2)

    def program(x):
        width = pyro.param("width", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), width).to_event(1))

    def step(svi, i):
        loss = svi.step(X)
        own.step()
        own.zero_grad()
        return loss

    return kind(model, program, adam(), Trace_ELBO()), step


@training
def an_average_of_parameters(kind):
    net, slow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def program(x):
        pyro.module("net", net)
        with torch.no_grad():
            for one, other in zip(slow.parameters(), net.parameters(), strict=True):
                one.mul_(0.9).add_(other, alpha=0.1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x) + slow(x).detach(), 0.5).to_event(1))

    return kind(model, program, adam(), Trace_ELBO()), lambda svi, i: svi.step(X)


@training
def data_of_a_buffer(kind):
    net = torch.nn.Module()
    net.register_buffer("mean", torch.zeros(2))

    def program(x):
        net.mean.data = 0.9 * net.mean.data + 0.1 * x.mean(0)
        guide(x + net.mean)

    return kind(model, program, adam(), Trace_ELBO()), lambda svi, i: svi.step(X + i)


@training
def an_argument_that_a_program_changes(kind):
    x = X.clone()

    def program(x):
        x.mul_(0.9)
        model(x)

    return kind(program, guide, adam(), Trace_ELBO()), lambda svi, i: svi.step(x)


@training
def an_object_of_slots_that_is_frozen(kind):
    made = dataclasses.make_dataclass("B", ["x"], frozen=True, slots=True)
    svi = kind(lambda b: model(b.x), lambda b: guide(b.x), adam(), Trace_ELBO())
    return svi, lambda svi, i: svi.step(made(X + i))


@training
def another_type(kind):
    net = torch.nn.Linear(2, 2)

    def program(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x.to(net.weight.dtype)), 0.5).to_event(1))

    def step(svi, i):
        if i in (3, 6):
            net.to(torch.float64 if i == 3 else torch.float32)
        return svi.step(X)

    return kind(model, program, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()), step


@training
def a_step_that_fails(kind):
    """The momentum of the head that is not used moves it on, whatever failed before."""
    heads = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    def program(x, which):
        pyro.module("heads", heads)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(heads[which](x), 0.5).to_event(1))

    def step(svi, i):
        try:
            return svi.step(X * float("nan") if i in (2, 4, 7) else X, i % 2)
        except ValueError:
            return 0.0

    return kind(lambda x, which: model(x), program, adam(), Trace_ELBO()), step


@training
def a_mode_of_torch(kind):
    class Ones(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            func = torch.ones if func is torch.zeros else func
            return func(*args, **(kwargs or {}))

    def step(svi, i):
        with Ones() if i == 5 else contextlib.nullcontext():
            return svi.step(X)

    return kind(model, guide, adam(), Trace_ELBO()), step


@training
def a_hook_after_gradients_are_added(kind):
    seen = []

    def step(svi, i):
        loss = svi.step(X)
        if i == 3:
            loc = pyro.get_param_store()._params["loc"]
            loc.register_post_accumulate_grad_hook(lambda p: seen.append(1))
        return loss + len(seen)

    return kind(model, guide, adam(), Trace_ELBO()), step


def said(do):
    """Return a training whose losses count what the model does beside."""

    def make(kind):
        act, count = do()

        def program(x):
            act()
            model(x)

        return kind(program, guide, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + count()

    return make


def logging_done():
    records, logger = [], logging.Logger("of_a_test")
    logger.addFilter(lambda record: records.append(record) or True)
    return lambda: logger.info("a step"), lambda: len(records)


def appending_done():
    records = []
    act = functools.partial(records.append, 1)
    return act, lambda: len(records)


def writing_done():
    file = io.StringIO()
    return lambda: file.write("a"), file.tell


def counting_done():
    kept = types.SimpleNamespace(n=0)
    return lambda: setattr(kept, "n", kept.n + 1), lambda: kept.n


for _do in (logging_done, appending_done, writing_done, counting_done):
    TRAININGS[_do.__name__] = said(_do)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_pyros(name):
    assert_pyros(TRAININGS[name])


def test_what_a_model_prints_is_printed_at_each_step(capsys):
    def program(x):
        print("a step")
        model(x)

    svi = SVI(program, guide, adam(), Trace_ELBO())
    for _ in range(6):
        svi.step(X)
    assert capsys.readouterr().out.count("a step") == 6


def test_gradients_of_what_is_not_announced_add_up():
    found = []
    for kind in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        shift = torch.zeros(2, requires_grad=True)
        svi = kind(model, lambda x, shift=shift: guide(x + 0) or shift, adam(), Trace_ELBO())
        svi.model = lambda x, shift=shift: model(x - shift)
        for _ in range(6):
            svi.step(X)
        found.append(shift.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_a_state_can_be_asked_for_after_the_store_is_cleared():
    svi = SVI(model, guide, adam(), Trace_ELBO())
    svi.step(X)
    pyro.clear_param_store()
    svi.step(X)
    assert "loc" in svi.optim.get_state()
