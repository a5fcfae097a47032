"""Changes that no value of Python's shows: a step that was recorded before has to see them.

The change comes before a step that no graph is held beside Pyro's: only a guard sees it.
"""

import functools
import gc
import json
import os
import time
import types
import typing
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import adam
from pyro.infer import Trace_ELBO
from steps import local as model
from steps import weighted as guide
from torch import nn

import pyrovae as pv
from pyrovae.train.svi import SVI

pytestmark = pytest.mark.usefixtures("interpreted")

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(7))
CHANGE = 5


class Plain:
    pass


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


def losses(kind, make):
    """Return the losses of eight steps: `make` gives the number, a change and the arguments."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    number, change, *argument = make()
    argument = argument[0] if argument else lambda: X
    svi = kind(
        lambda b: model(getattr(b, "x", X)),
        lambda b: guide(getattr(b, "x", X), number(b)),
        adam(),
        Trace_ELBO(),
    )
    found = []
    for i in range(8):
        if i == CHANGE:
            change()
        found.append(svi.step(argument()))
    return found, svi


def assert_pyros(make):
    wanted, _ = losses(pyro.infer.SVI, make)
    found, svi = losses(SVI, make)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert svi._graphs


TABLE = torch.tensor([0.5, 2.0])

READS = {
    "an index": lambda w, i, b: TABLE[i],
    "a bound of a slice": lambda w, i, b: TABLE[i:].sum(),
    "an index that is written to": lambda w, i, b: torch.ones(2).index_fill(0, i, 0.3)[0],
    "a value to fill with": lambda w, i, b: torch.full((), w),
    "a factor of a sum": lambda w, i, b: torch.add(torch.tensor(0.1), 1.0, alpha=w),
    "a slope": lambda w, i, b: nn.functional.leaky_relu(torch.tensor(-1.0), w).abs(),
    "a list of numbers": lambda w, i, b: torch.tensor([w, 0.1]).sum(),
    "a list for a tensor of a kind": lambda w, i, b: TABLE.new_tensor([w]).sum(),
    "a narrowed table": lambda w, i, b: torch.narrow(TABLE, 0, i, 1).sum(),
    "is_nonzero": lambda w, i, b: 2.0 if torch.is_nonzero(b) else 0.5,
    "equal": lambda w, i, b: 2.0 if torch.equal(w, torch.tensor(2.0)) else 0.5,
    "allclose": lambda w, i, b: 2.0 if torch.allclose(w, torch.tensor(2.0)) else 0.5,
    "a string": lambda w, i, b: 2.0 if "2" in str(w) else 0.5,
}


@pytest.mark.parametrize("read", READS)
def test_a_number_that_torch_reads_from_a_tensor_is_guarded(read):
    def make():
        w, i, b = torch.tensor(0.5), torch.tensor(0), torch.zeros((), dtype=torch.bool)

        def change():
            w.fill_(2.0)
            i.fill_(1)
            b.fill_(1)

        return lambda _: READS[read](w, i, b), change

    assert_pyros(make)


def held(first, then, read):
    """Return a case whose tensor is rebound."""

    def make():
        kept = Plain()
        kept.w = first()

        def change():
            kept.w = then(kept.w)

        return lambda _: read(kept.w), change

    return make


def ten():
    return torch.zeros(10, 2)


TENSORS = {
    "one that Python reads": held(lambda: torch.tensor(0.5), lambda _: torch.tensor(2.0), float),
    "its length": held(ten, lambda _: torch.zeros(40, 2), lambda w: len(w) / 10),
    "its length in place": held(ten, lambda w: w.resize_(40, 2), lambda w: len(w) / 10),
    "its type": held(ten, torch.Tensor.double, lambda w: 0.1 * w.element_size()),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_python_looks_at_is_guarded(name):
    assert_pyros(TENSORS[name])


def test_the_number_of_data_of_a_plate_is_that_of_the_data():
    """With a quarter of the data the scale of the batch is a quarter."""

    def training(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        data = torch.zeros(12, 2)

        def program(x, observed):
            loc = pyro.param("loc", torch.zeros(2))
            with pyro.plate("data", len(data), subsample_size=len(x)):
                z = pyro.sample("z", dist.Normal(loc * (not observed), 0.5).to_event(1))
                if observed:
                    pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

        svi = kind(
            lambda x: program(x, observed=1),
            lambda x: program(x, observed=0),
            adam(),
            Trace_ELBO(),
        )
        found = []
        for i in range(8):
            if i == CHANGE:
                data = torch.zeros(48, 2)
            found.append(svi.step(X))
        return found

    assert training(SVI) == pytest.approx(training(pyro.infer.SVI), rel=1e-4)


@pytest.mark.parametrize("kind", [lambda w: [w], lambda w: (w, 1), lambda w: ([w],)])
def test_a_tensor_in_a_container_that_an_equal_one_replaces(kind):
    """The graph reads the tensor of the new container, which is changed later."""

    def inner(held):
        return inner(held[0]) if isinstance(held, list | tuple) else held

    def make():
        kept, steps = Plain(), iter(range(8))

        def argument():
            if next(steps) < CHANGE:
                kept.w = kind(torch.tensor(0.5))
            return X

        return lambda _: inner(kept.w) * 1.0, lambda: inner(kept.w).fill_(2.0), argument

    wanted, _ = losses(pyro.infer.SVI, make)
    assert losses(SVI, make)[0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("partial", [True, False])
def test_a_tensor_that_a_tuple_holds_too_is_not_rebound_there(partial):
    def make():
        kept = Plain()
        kept.w = torch.tensor(0.5)
        first = functools.partial(lambda w: w, kept.w)
        kept.pair = (kept.w, 1)

        def number(_):
            return 0.3 * kept.w + (first() if partial else kept.pair[0])

        return number, lambda: setattr(kept, "w", torch.tensor(2.0))

    assert_pyros(make)


def of_objects(collect, read):
    def make():
        kept = Plain()
        kept.w = 0.5
        collected = collect(kept)
        return lambda _: read(collected), lambda: setattr(kept, "w", 2.0)

    return make


def in_a_dict(view, read):
    def make():
        kept = {"w": 0.5}
        seen = view(kept)
        return lambda _: read(seen), lambda: kept.update(w=2.0)

    return make


def an_order():
    kept = {"a": 0.5, "b": 2.0}
    return lambda _: next(iter(kept.values())), lambda: kept.update(a=kept.pop("a"))


def a_large_array():
    kept = np.full(5000, 0.5)
    return lambda _: float(kept[3]), lambda: kept.__setitem__(3, 2.0)


def a_view_of_memory():
    kept = bytearray([1])
    view = memoryview(kept)
    return lambda _: view[0] / 2, lambda: kept.__setitem__(0, 4)


def beside_much_data():
    rows, kept = [(i, [i]) for i in range(6000)], Plain()
    kept.a = Plain()
    kept.a.b = Plain()
    kept.a.b.w = 0.5
    held = {"rows": rows, "kept": kept}
    return lambda _: held["kept"].a.b.w, lambda: setattr(kept.a.b, "w", 2.0)


def a_transform():
    made = torch.distributions.transforms.AffineTransform(0.5, 1.0)
    return lambda _: made(torch.tensor(0.0)), lambda: setattr(made, "loc", 2.0)


def a_subset():
    made = torch.utils.data.Subset([0] * 9, [0])
    return lambda _: len(made) / 2, lambda: setattr(made, "indices", [0] * 4)


def a_dataset():
    made = torch.utils.data.TensorDataset(torch.tensor([0.5]))
    return lambda _: made.tensors[0][0], lambda: setattr(made, "tensors", (torch.tensor([2.0]),))


def a_jitter():
    """Pyro's own settings are read by its functions."""

    def number(_):
        tiny = pyro.ops.tensor_utils.safe_cholesky(1e-6 * torch.eye(1))
        return 100 * tiny[0, 0]

    return number, lambda: pyro.settings.set(cholesky_relative_jitter=1e4)


HIDDEN = {
    "a set": of_objects(lambda one: {one}, lambda held: sum(o.w for o in held)),
    "a frozenset": of_objects(lambda one: frozenset([one]), lambda held: sum(o.w for o in held)),
    "the keys of a dict": of_objects(lambda one: {one: 1}, lambda held: sum(o.w for o in held)),
    "an array": of_objects(lambda o: np.array([o, 0], dtype=object), lambda held: held[0].w),
    "a proxy": in_a_dict(types.MappingProxyType, lambda held: held["w"]),
    "a view": in_a_dict(dict.values, sum),
}
for _make in (an_order, a_large_array, a_view_of_memory, beside_much_data, a_transform, a_subset):
    HIDDEN[_make.__name__] = _make
HIDDEN |= {"a_dataset": a_dataset, "a_jitter": a_jitter}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_number_that_no_attribute_shows_is_guarded(name):
    before = pyro.settings.get("cholesky_relative_jitter")

    def make():
        pyro.settings.set(cholesky_relative_jitter=before)
        return HIDDEN[name]()

    try:
        assert_pyros(make)
    finally:
        pyro.settings.set(cholesky_relative_jitter=before)


class Batch:
    weight = 0.5

    def __init__(self):
        self.x = X

    def number(self):
        return KEPT["w"]


class Row(typing.NamedTuple):
    x: torch.Tensor

    def number(self):
        return KEPT["w"]


KEPT = {}


def of_batches(argument, read):
    def make():
        KEPT["w"] = Batch.weight = 0.5

        def change():
            KEPT["w"] = Batch.weight = 2.0

        return read, change, argument

    return make


@pytest.mark.parametrize(
    "make",
    [
        of_batches(Batch, lambda batch: batch.weight),
        of_batches(Batch, lambda batch: batch.number()),
        of_batches(lambda: Row(X), lambda row: row.number()),
    ],
)
def test_the_class_of_an_argument_is_guarded(make):
    assert_pyros(make)


def test_the_mode_of_a_module_of_torchscript_is_seen():
    def make():
        made = torch.jit.script(nn.Dropout(0.9))

        def number(_):
            return made(torch.ones(64)).mean() + 0.5

        return number, made.eval

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script`")
        wanted, _ = losses(pyro.infer.SVI, make)
        with pytest.warns(UserWarning, match=r"made \(in number\) is a module of TorchScript"):
            found, svi = losses(SVI, make)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert not svi._graphs


def outside(tmp_path):
    file, flag = tmp_path / "weight.json", tmp_path / "flag"

    def read_a_file():
        file.write_text("0.5")
        return lambda _: json.loads(file.read_text()), lambda: file.write_text("2.0")

    def ask_for_a_file():
        flag.unlink(missing_ok=True)
        return lambda _: 2.0 if os.path.exists(flag) else 0.5, flag.touch

    def read_the_clock():
        end = time.monotonic() + 1e6

        def number(_):
            return 0.5 if time.monotonic() < end else 2.0

        return number, lambda: None

    return {"a file": [read_a_file, ask_for_a_file], "the clock": [read_the_clock]}


@pytest.mark.parametrize("what", ["a file", "the clock"])
def test_a_program_that_reads_the_clock_or_a_file_stays_pyros_and_is_said(what, tmp_path):
    for make in outside(tmp_path)[what]:
        wanted, _ = losses(pyro.infer.SVI, make)
        with pytest.warns(UserWarning, match=f"the programs read {what} as they run"):
            found, svi = losses(SVI, make)
        assert found == pytest.approx(wanted, rel=1e-4)
        assert not svi._graphs


def row_guide(x):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.parametrize("clear", [True, False])
def test_an_evaluation_reads_the_parameters_that_are_in_pyros_store(clear):
    runner = pv.CompiledRun()
    values = []
    for loc in (torch.zeros(2), torch.ones(2)):
        if clear:
            pyro.clear_param_store()
        pyro.get_param_store()["loc"] = loc
        found, wanted = (log_weights(run) for run in (runner, None))
        torch.testing.assert_close(found, wanted)
        values.append(found.mean())
    assert values[0] != values[1]


def log_weights(runner):
    pyro.set_rng_seed(0)
    more = {} if runner is None else {"runner": runner}
    return pv.log_weights((model, row_guide), X, particles=10, **more)


def test_an_evaluation_of_a_program_that_reads_the_clock_is_uncompiled():
    def program(x):
        time.monotonic()
        row_guide(x)

    with pytest.warns(
        UserWarning, match="log-weights run uncompiled: the programs read the clock"
    ):
        pv.log_weights((model, program), X, particles=10, runner=pv.CompiledRun())


@pytest.fixture
def timed_garbage(tmp_path):
    """Let an installed package read the clock when garbage is collected, as Hypothesis does."""
    path = tmp_path / "site-packages" / "timed" / "__init__.py"
    code = compile("lambda phase, info: times.append(perf_counter())", str(path), "eval")
    names = {"__name__": "timed", "perf_counter": time.perf_counter, "times": []}
    timed = types.FunctionType(code, names)()
    gc.callbacks.append(timed)
    yield names["times"]
    gc.callbacks.remove(timed)


def test_a_clock_that_an_installed_package_reads_in_between_is_not_the_programs(timed_garbage):
    def program(x):
        gc.collect()
        row_guide(x)

    runner = pv.CompiledRun()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.log_weights((model, program), X, particles=10, runner=runner)
        svi = SVI(model, program, adam(), Trace_ELBO())
        for _ in range(4):
            svi.step(X)
    assert timed_garbage
    assert len(runner._graphs) == len(svi.graphs) == 1
