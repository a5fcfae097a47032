"""Programs of the kinds that people train, each over twelve steps as with `pyro.infer.SVI`.

Those of `UNCOMPILED` keep a state in Python or cannot be recorded: they run as Pyro runs them.
"""

import collections
import copy
import dataclasses
import enum
import functools
import warnings

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from programs import adam
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.scale_messenger import ScaleMessenger
from steps import Heads, Local, X, eager, guide, local, model, trained
from torch import nn

from pyrovae.train.svi import SVI

pytestmark = pytest.mark.usefixtures("interpreted")

CASES = {}
UNCOMPILED = {
    "sparse_embedding",
    "stateful_elbo",
    "logs_to_list",
    "logs_to_object",
    "logs_tensor",
    "set_member",
    "deque_member",
    "counter_global_fn",
    "grad_arg",
}


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


def case(make):
    CASES[make.__name__] = make
    return make


@case
def hmm(kind):
    seqs = torch.randint(0, 5, (6, 4), generator=torch.Generator().manual_seed(1)).float()

    def m(s):
        px = pyro.param("px", 0.9 * torch.eye(3) + 0.1, constraint=dist.constraints.simplex)
        py = pyro.param("py", torch.rand(3, 5) + 0.1)
        with pyro.plate("s", len(s), dim=-1):
            x = 0
            for t in pyro.markov(range(4)):
                x = pyro.sample(f"x_{t}", dist.Categorical(px[x]), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Normal(py[x].mean(-1), 1.0), obs=s[:, t])

    return (
        kind(m, lambda s: None, adam(), TraceEnum_ELBO(max_plate_nesting=1)),
        lambda svi, i: svi.step(seqs),
    )


@case
def lda_like(kind):

    def m(d):
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("d", len(d)):
            z = pyro.sample("z", dist.Categorical(w), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=d)

    def g(d):
        a = pyro.param("a", torch.ones(3), constraint=dist.constraints.positive)
        pyro.sample("w", dist.Dirichlet(a))

    return (
        kind(m, g, adam(), TraceEnum_ELBO(max_plate_nesting=1)),
        lambda svi, i: svi.step(X[:, 0]),
    )


@case
def svgp(kind):
    x = X
    y = X.sum(-1)
    kern = gp.kernels.RBF(2)
    gpm = gp.models.SparseGPRegression(x, y, kern, Xu=X[:4].clone(), jitter=0.001)
    return (kind(gpm.model, gpm.guide, adam(), Trace_ELBO()), lambda svi, i: svi.step())


@case
def vsgp(kind):
    gpm = gp.models.VariationalSparseGP(
        X, X.sum(-1), gp.kernels.RBF(2), Xu=X[:4].clone(), likelihood=gp.likelihoods.Gaussian()
    )
    return (kind(gpm.model, gpm.guide, adam(), Trace_ELBO()), lambda svi, i: svi.step())


@case
def bnn(kind):

    class B(PyroModule):
        def __init__(s):
            super().__init__()
            s.l = PyroModule[nn.Linear](2, 1)
            s.l.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            s.l.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(s, x, y=None):
            mu = s.l(x).squeeze(-1)
            sg = pyro.sample("s", dist.Uniform(0.0, 10.0))
            with pyro.plate("data", x.shape[0]):
                pyro.sample("obs", dist.Normal(mu, sg), obs=y)
            return mu

    b = B()
    return (
        kind(b, AutoDiagonalNormal(b), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X, X.sum(-1)),
    )


@case
def ssvae(kind):
    net = nn.Linear(2, 2)

    def m(x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(2) / 2), obs=y)
            pyro.sample("x", dist.Normal(y, 1.0).to_event(1), obs=x)

    def g(x, y=None):
        pyro.module("n", net)
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.OneHotCategorical(logits=net(x)))

    y = torch.eye(2)[torch.arange(12) % 2]
    return (
        kind(
            m,
            config_enumerate(g, "parallel", expand=True),
            adam(),
            TraceEnum_ELBO(max_plate_nesting=1),
        ),
        lambda svi, i: svi.step(X, y if i % 2 else None),
    )


@case
def subsample(kind):

    def m():
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample_size=4) as ix:
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=X[ix])

    def g():
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.zeros(2)), 0.5).to_event(1))

    return (kind(m, g, adam(), Trace_ELBO()), lambda svi, i: svi.step())


@case
def reparam(kind):
    m = poutine.reparam(model, config={"mu": LocScaleReparam()})
    return kind(m, AutoNormal(m), adam(), Trace_ELBO())


@case
def weight_norm(kind):
    net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))

    def g(x):
        pyro.module("n", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.5).to_event(1))

    return kind(local, g, adam(), Trace_ELBO())


@case
def spectral_norm(kind):
    net = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))

    def g(x):
        pyro.module("n", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.5).to_event(1))

    return kind(local, g, adam(), Trace_ELBO())


@case
def old_spectral(kind):
    net = nn.utils.spectral_norm(nn.Linear(2, 2))

    def g(x):
        pyro.module("n", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.5).to_event(1))

    return kind(local, g, adam(), Trace_ELBO())


@case
def sparse_embedding(kind):
    net = nn.Embedding(12, 2, sparse=True)

    def g(x):
        pyro.module("n", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(torch.arange(len(x))), 0.5).to_event(1))

    return kind(local, g, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())


class Mode(enum.Enum):
    A = 0.5
    B = 2.0


@case
def enum_argument(kind):
    made = Local()
    return (
        kind(lambda x, m: local(x), lambda x, m: made(x, weight=m.value), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X, Mode.A if i // 4 % 2 else Mode.B),
    )


NT = collections.namedtuple("NT", "x w")


@case
def namedtuple_argument(kind):
    made = Local()
    return (
        kind(lambda b: local(b.x), lambda b: made(b.x, weight=b.w), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(NT(X + i, 0.1 * (i + 1))),
    )


@dataclasses.dataclass(frozen=True)
class DC:
    x: torch.Tensor
    w: float


@case
def frozen_dataclass_argument(kind):
    made = Local()
    return (
        kind(lambda b: local(b.x), lambda b: made(b.x, weight=b.w), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(DC(X + i, 0.1 * (i + 1))),
    )


@case
def dict_argument(kind):
    made = Local()
    return (
        kind(lambda b: local(b["x"]), lambda b: made(b["x"], weight=b["w"]), adam(), Trace_ELBO()),
        lambda svi, i: svi.step({"x": X + i, "w": 0.1 * (i + 1)}),
    )


class Prop(Local):
    @property
    def w(self):
        return self._w**2


@case
def property_number(kind):
    made = Prop()
    made._w = 0.5

    def step(svi, i):
        made._w = 0.1 * (i + 1)
        return svi.step(X)

    return (kind(local, lambda x: made(x, weight=made.w), adam(), Trace_ELBO()), step)


class Slots:
    __slots__ = ("w",)


@case
def slots_number(kind):
    made = Local()
    s = Slots()
    s.w = 0.5

    def step(svi, i):
        s.w = 0.5 if i < 5 else 3.0
        return svi.step(X)

    return (kind(local, lambda x: made(x, weight=s.w), adam(), Trace_ELBO()), step)


@case
def numpy_scalar(kind):
    made = Local()
    made.np = np.float64(0.5)

    def step(svi, i):
        made.np = np.float64(0.5 if i < 5 else 3.0)
        return svi.step(X)

    return (kind(local, lambda x: made(x, weight=float(made.np)), adam(), Trace_ELBO()), step)


@case
def numpy_array(kind):
    made = Local()
    made.np = np.array([0.5])

    def step(svi, i):
        made.np[0] = 0.5 if i < 5 else 3.0
        return svi.step(X)

    return (kind(local, lambda x: made(x, weight=float(made.np[0])), adam(), Trace_ELBO()), step)


@case
def partial(kind):
    made = Local()
    box = {"w": 0.5}

    def g(box, x):
        made(x, weight=box["w"])

    def step(svi, i):
        box["w"] = 0.1 * (i + 1)
        return svi.step(X)

    return (kind(local, functools.partial(g, box), adam(), Trace_ELBO()), step)


@case
def load_state(kind):
    made = Local()
    s0 = copy.deepcopy(made.state_dict())

    def step(svi, i):
        if i == 5:
            made.load_state_dict(s0)
        return svi.step(X)

    return (kind(local, made, adam(), Trace_ELBO()), step)


@case
def load_assign(kind):
    made = Local()
    s0 = copy.deepcopy(made.state_dict())

    def step(svi, i):
        if i == 5:
            made.load_state_dict(s0, assign=True)
        return svi.step(X)

    return (kind(local, lambda x: made(x), pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()), step)


@case
def to_double(kind):
    made = Local()
    x = [X]

    def step(svi, i):
        if i == 5:
            made.double()
            x[0] = X.double()
            pyro.clear_param_store()
        return svi.step(x[0])

    return (kind(lambda x: local(x), made, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()), step)


@case
def freeze(kind):
    made = Heads()

    def step(svi, i):
        made.heads[0].weight.requires_grad_(i // 3 % 2 == 0)
        return svi.step(X, 0)

    return (kind(local, made.guide, adam(), Trace_ELBO()), step)


@case
def replace_module(kind):
    made = Local()

    def step(svi, i):
        if i == 5:
            torch.manual_seed(9)
            made.net = nn.Linear(2, 2)
            pyro.clear_param_store()
            torch.manual_seed(9)
        return svi.step(X)

    return (kind(local, made, adam(), Trace_ELBO()), step)


@case
def evaluate_between(kind):

    def step(svi, i):
        return svi.step(X) + svi.evaluate_loss(X)

    return (kind(model, guide, adam(), Trace_ELBO()), step)


class Stateful(Trace_ELBO):
    def __init__(s):
        super().__init__()
        s.n = 0
        s.seen = []

    def loss_and_grads(s, *a, **k):
        s.n += 1
        found = super().loss_and_grads(*a, **k)
        s.seen.append(found)
        return found


@case
def stateful_elbo(kind):
    e = Stateful()
    return (kind(model, guide, adam(), e), lambda svi, i: svi.step(X) + e.n + len(e.seen))


@case
def alternate(kind):
    o = adam()
    a = pyro.infer.SVI(model, guide, o, Trace_ELBO())
    b = kind(model, guide, o, Trace_ELBO())
    return (b, lambda svi, i: (a if i % 3 == 2 else svi).step(X))


@case
def exception_in_step(kind):
    box = [0]

    def g(x):
        guide(x)
        if box[0]:
            raise RuntimeError("no")

    def step(svi, i):
        box[0] = int(i == 4)
        try:
            return svi.step(X)
        except RuntimeError:
            return 0.0

    return (kind(model, g, adam(), Trace_ELBO()), step)


@case
def argument_mutated(kind):
    x = X.clone()

    def step(svi, i):
        x.add_(0.1)
        return svi.step(x)

    return (kind(model, guide, adam(), Trace_ELBO()), step)


@case
def same_twice(kind):

    def m(x, y):
        model(x + y)

    return (
        kind(m, lambda x, y: guide(x), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X, X if i % 2 else X + 1),
    )


@case
def logs_to_list(kind):
    log = []

    def g(x):
        guide(x)
        log.append(len(log))

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + len(log))


class Logger:
    def __init__(s):
        s.d = {}

    def add(s, k, v):
        s.d.setdefault(k, []).append(v)


@case
def logs_to_object(kind):
    log = Logger()

    def g(x):
        guide(x)
        log.add("a", 1.0)

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + len(log.d["a"]))


@case
def logs_tensor(kind):
    log = Logger()

    def g(x):
        guide(x)
        log.last = pyro.param("loc").sum().detach()

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + float(log.last))


@case
def set_member(kind):
    s = set()

    def g(x):
        guide(x)
        s.add(len(s))

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + len(s))


@case
def deque_member(kind):
    s = collections.deque()

    def g(x):
        guide(x)
        s.append(1)

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + len(s))


@case
def counter_global_fn(kind):
    c = collections.Counter()

    def g(x):
        guide(x)
        c["n"] += 1

    return (kind(model, g, adam(), Trace_ELBO()), lambda svi, i: svi.step(X) + c["n"])


@case
def scale_handler(kind):
    w = [0.5]

    def m(x):
        with poutine.scale(scale=w[0]):
            model(x)

    def g(x):
        with poutine.scale(scale=w[0]):
            guide(x)

    def step(svi, i):
        w[0] = 0.1 * (i + 1)
        return svi.step(X)

    return (kind(m, g, adam(), TraceMeanField_ELBO()), step)


@case
def messenger_scale(kind):
    s = ScaleMessenger(scale=0.5)
    m = s(model)
    g = s(guide)

    def step(svi, i):
        s.scale = 0.1 * (i + 1)
        return svi.step(X)

    return (kind(m, g, adam(), TraceMeanField_ELBO()), step)


@case
def mask_argument(kind):

    def m(x, k):
        with poutine.mask(mask=k):
            local(x)

    made = Local()

    def g(x, k):
        with poutine.mask(mask=k):
            made(x)

    return (
        kind(m, g, adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X, torch.arange(12) % (i + 2) > 0),
    )


@case
def condition(kind):
    return kind(
        poutine.condition(model, data={"scale": torch.tensor(1.0)}),
        lambda x: pyro.sample(
            "mu", dist.Normal(pyro.param("loc", torch.zeros(2)), 0.5).to_event(1)
        ),
        adam(),
        Trace_ELBO(),
    )


@case
def lift(kind):

    def m(x):
        s = pyro.param("s", torch.tensor(1.0))
        with pyro.plate("d", len(x)):
            pyro.sample("x", dist.Normal(s, 1.0).expand([2]).to_event(1), obs=x)

    lm = poutine.lift(m, prior={"s": dist.Normal(0.0, 1.0)})
    return kind(lm, AutoNormal(lm), adam(), Trace_ELBO())


@case
def grad_arg(kind):
    s = torch.tensor(0.5, requires_grad=True)
    return (
        kind(lambda x, s: model(x), lambda x, s: guide(x + s), adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X, s),
    )


@case
def complex_flow(kind):
    fl = dist.transforms.spline_coupling(2)

    def g(x):
        pyro.module("fl", fl)
        pyro.sample(
            "mu", dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [fl])
        )
        pyro.sample("scale", dist.LogNormal(pyro.param("b", torch.tensor(0.1)), 0.2))

    return kind(model, g, adam(), Trace_ELBO())


@case
def nothing_random(kind):
    return kind(
        lambda x: pyro.factor("f", -((pyro.param("a", torch.tensor(2.0)) - 1) ** 2)),
        lambda x: None,
        adam(),
        Trace_ELBO(),
    )


@case
def lr_by_group_object(kind):
    o = adam()

    def step(svi, i):
        loss = svi.step(X)
        if i == 4:
            for p in list(o.optim_objs):
                del o.optim_objs[p]
        return loss

    return (kind(model, guide, o, Trace_ELBO()), step)


@case
def detached_copy_guide(kind):
    g = [AutoNormal(model)]

    def step(svi, i):
        if i == 5:
            svi.guide = copy.deepcopy(svi.guide)
        return svi.step(X)

    return (kind(model, g[0], adam(), Trace_ELBO()), step)


@case
def string_flag(kind):
    made = Local()
    made.mode = "a"

    def step(svi, i):
        made.mode = "a" if i // 3 % 2 else "b"
        return svi.step(X)

    return (
        kind(
            local, lambda x: made(x, weight={"a": 0.5, "b": 2.0}[made.mode]), adam(), Trace_ELBO()
        ),
        step,
    )


@case
def parent_list(kind):
    mods = [nn.Linear(2, 2)]

    def g(x):
        h = x
        for i, m in enumerate(mods):
            pyro.module(f"m{i}", m)
            h = m(h)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h, 0.5).to_event(1))

    def step(svi, i):
        if i == 5:
            torch.manual_seed(3)
            mods.append(nn.Linear(2, 2))
        return svi.step(X)

    return (kind(local, g, adam(), Trace_ELBO()), step)


@case
def generator_state(kind):
    return (
        kind(model, guide, adam(), Trace_ELBO()),
        lambda svi, i: svi.step(X) + torch.rand(()).item(),
    )


@pytest.mark.parametrize("name", CASES)
def test_a_program_trains_as_with_pyro(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, wanted_losses, wanted = trained(pyro.infer.SVI, CASES[name], steps=12)
    for kind in (eager, SVI):
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            svi, losses, values = trained(kind, CASES[name], steps=12)
        torch.testing.assert_close(losses, wanted_losses, rtol=1e-4, atol=1e-4)
        for key in values.keys() & wanted.keys():
            torch.testing.assert_close(values[key], wanted[key], rtol=1e-3, atol=2e-4)
    said = [str(warning.message) for warning in met if "pyrovae" in str(warning.message)]
    assert bool(svi._graphs) is (name not in UNCOMPILED)
    assert len(said) == (name in UNCOMPILED)


class Cache(dict):
    """A dict with a slot, which makes what it is asked for, and takes numbers alone."""

    __slots__ = ("weight",)

    def __missing__(self, key):
        assert isinstance(key, int)
        self[key] = key
        return key


def test_a_dict_that_makes_its_values_is_looked_at_and_left_alone():
    cache = Cache({1: 0.5, 2: 0.7})
    cache.weight = 0.5

    def training(kind):
        made = Local()

        def step(svi, i):
            cache.weight = 0.5 if i < 4 else 2.0
            return svi.step(X)

        def program(x):
            made(x, weight=cache.weight * cache[1])

        return kind(local, program, adam(), Trace_ELBO()), step

    _, wanted, _ = trained(pyro.infer.SVI, training)
    svi, losses, _ = trained(SVI, training)
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-4)
    assert svi._graphs
    assert cache == {1: 0.5, 2: 0.7}
