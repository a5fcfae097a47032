"""More ways to hold a parameter: a run's folder has it, or saving says that it cannot."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from test_parameters_saved import LATENTS, WIDTH, Normalized, elbo, observed, trained
from torch import nn

import pyrovae as pv


@pytest.fixture(autouse=True)
def _a_store_of_ones_own():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(LATENTS, WIDTH) for _ in range(2)])
        self.of = nn.ParameterDict({"scale": torch.zeros(WIDTH)})

    def forward(self, z, x=None):
        scale = nn.functional.softplus(self.of["scale"])
        return observed(lambda z: z @ self.weights[0] + (z @ self.weights[1]).tanh(), z, x, scale)


class Declared(PyroModule):
    """Parameters that Pyro makes when they are first asked for."""

    @PyroParam(constraint=dist.constraints.positive)
    def scale(self):
        return torch.ones(WIDTH)

    @PyroParam
    def weight(self):
        return torch.randn(LATENTS, WIDTH)

    def forward(self, z, x=None):
        return observed(lambda z: z @ self.weight, z, x, self.scale)


class Within(PyroModule):
    """A constrained parameter in place of one of torch's, in a module within."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](LATENTS, WIDTH)
        self.linear.bias = PyroParam(torch.ones(WIDTH), constraint=dist.constraints.positive)

    def forward(self, z, x=None):
        return observed(self.linear, z, x)


class Parametrized(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.net = by(nn.Linear(LATENTS, WIDTH))

    def forward(self, z, x=None):
        return observed(self.net, z, x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(LATENTS, WIDTH), nn.Linear(LATENTS, WIDTH)
        self.other.weight = self.one.weight

    def forward(self, z, x=None):
        return observed(lambda z: self.one(z) + self.other(z), z, x)


class Holder:
    """No module: it announces the one that it has, with buffers."""

    def __init__(self):
        self.net = Normalized()

    def score(self, z, x=None):
        pyro.module("decoder", self.net)
        return observed(self.net.mean, z, x)

    __call__ = score


def held_in(container):
    def likelihood(z, x=None):
        (net,) = container.values() if isinstance(container, dict) else container
        pyro.module("decoder", net)
        return observed(net.mean, z, x)

    return likelihood


def by_default():
    def likelihood(z, x=None, net=Normalized()):  # noqa: B008
        pyro.module("decoder", net)
        return observed(net.mean, z, x)

    return likelihood


parametrizations = torch.nn.utils.parametrizations

WAYS = {
    "lists and dicts": Lists,
    "declared by methods": Declared,
    "constrained within": Within,
    "weight_norm": lambda: Parametrized(parametrizations.weight_norm),
    "spectral_norm": lambda: Parametrized(parametrizations.spectral_norm),
    "tied": Tied,
    "a bound method": lambda: Holder().score,
    "a callable object": Holder,
    "a partial of a method": lambda: functools.partial(Holder.score, Holder()),
    "in a list": lambda: held_in([Normalized()]),
    "in a dict": lambda: held_in({"net": Normalized()}),
    "a default": by_default,
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
def test_what_was_trained_comes_back(make, tmp_path):
    """A fresh store and a fresh program: the ELBO is the very same."""
    torch.manual_seed(0)
    wanted = elbo(trained(make, tmp_path))
    pyro.clear_param_store()
    torch.manual_seed(1)
    again = pv.load(tmp_path, likelihood=make())
    torch.testing.assert_close(elbo(again), wanted, rtol=0, atol=1e-5)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.steps = nn.Linear(LATENTS, WIDTH), 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]

    def forward(self, z, x=None):
        return observed(self.net, z, x)


class Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(LATENTS, WIDTH)

    def score(self, z, x=None):
        return observed(self.net, z, x)


def unannounced():
    net = nn.Linear(LATENTS, WIDTH)
    return lambda z, x=None: observed(net, z, x)


REFUSED = {
    "what is no tensor": (Counting, r"holds tensors.*likelihood\._extra_state.*register_buffer"),
    "a closure that is not announced": (unannounced, "no part holds.*pyro.module"),
    "a method that announces nothing": (lambda: Method().score, "no part holds.*pyro.module"),
}


@pytest.mark.parametrize(("make", "wanted"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_saved_is_refused_before_the_first_step(make, wanted, tmp_path):
    with pytest.raises(ValueError, match=wanted):
        trained(make, tmp_path)


class LocalModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](LATENTS, WIDTH)
        self.scale = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


class LocalGuide(PyroModule):
    def __init__(self, name="encoder"):
        super().__init__()
        self.name = name
        setattr(self, name, PyroModule[nn.Linear](WIDTH, LATENTS))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(getattr(self, self.name)(x), 0.5).to_event(1))


def of_seed(seed):
    torch.manual_seed(seed)
    return LocalModel(), LocalGuide()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_layers_with_local_parameters_train_as_by_torch_and_are_saved(compiled, tmp_path):
    """Pyro's own SVI fails on them; its objective as a module with torch's Adam does not."""
    x, adam = torch.randn(7, WIDTH), {"lr": 0.01}
    with pyro.settings.context(module_local_params=True):
        wanted = of_seed(0)
        loss = pyro.infer.Trace_ELBO()(*wanted)
        loss(x)  # announces the parameters
        optim = torch.optim.Adam(loss.parameters(), **adam)
        pair = of_seed(0)
        step = pv.SVI(*pair, pyro.optim.Adam(adam), pyro.infer.Trace_ELBO(), compile=compiled).step
        for i in range(6):
            with pv.seeded(i):
                optim.zero_grad()
                found = loss(x)
                found.backward()
                optim.step()
            with pv.seeded(i):
                assert step(x) == pytest.approx(found.item(), rel=1e-4)
        for one, other in zip(pair, wanted, strict=True):
            torch.testing.assert_close(one.state_dict(), other.state_dict())
        pv.fit(pair, x, epochs=2, callbacks=[pv.Checkpoint(tmp_path)])
        again = of_seed(1)
        pv.load_parameters(again, tmp_path, x)
        for one, other in zip(pair, again, strict=True):
            torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert not list(pyro.get_param_store())


def test_two_local_parameters_of_one_name_are_refused():
    """The sites are named by the attributes: the layer of one program would hide the other's."""
    with pyro.settings.context(module_local_params=True):
        model, guide = LocalModel(), LocalGuide("net")
        elbo = pyro.infer.Trace_ELBO()
        svi = pv.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo, compile=False)
        with pytest.raises(ValueError, match="two parameters as 'net.weight'"):
            svi.step(torch.randn(7, WIDTH))
        with pytest.raises(ValueError, match="two parameters as 'net.weight'"):
            pv.fit((model, guide), torch.randn(7, WIDTH), epochs=1, callbacks=[])
