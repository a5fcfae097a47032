"""Programs trained step by step by two SVIs, and what they end with."""

import dataclasses

import pyro
import pyro.contrib.gp
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyrovae.train.svi import SVI

STEPS = 10


X = torch.randn(12, 2, generator=torch.Generator().manual_seed(7))


def eager(*arguments, **options):
    return SVI(*arguments, compile=False, **options)


def trained(kind, make, *, steps=STEPS):
    """Return losses and parameters of a training, and the SVI; `make` may give (svi, step)."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    made = make(kind)
    svi, step = made if isinstance(made, tuple) else (made, lambda svi, i: svi.step(X))
    losses = [step(svi, i) for i in range(steps)]
    with poutine.trace(param_only=True) as capture, torch.random.fork_rng():
        step(svi, steps)
    values = {n: site["value"].detach().clone() for n, site in capture.trace.nodes.items()}
    stored = {n: p.detach().clone() for n, p in pyro.get_param_store().named_parameters()}
    return svi, torch.as_tensor(losses), {**values, **stored}


def model(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, scale.unsqueeze(-1)).to_event(1), obs=x)


def guide(x):
    loc = pyro.param("loc", lambda: 0.1 * torch.randn(2))
    width = pyro.param("width", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("mu", dist.Normal(loc, width).to_event(1))
    pyro.sample("scale", dist.LogNormal(pyro.param("at", torch.tensor(0.1)), 0.3))


class Heads(nn.Module):
    """Two heads of which a step uses one: Pyro moves the other by its momentum."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def guide(self, x, which):
        pyro.module("heads", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.heads[which](x), 0.5).to_event(1))


def local(x, *_):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def weighted(x, weight=1.0):
    """Guide `local`, with a weight of its density."""
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)), poutine.scale(scale=weight):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


class Local(nn.Module):
    """A guide whose scale is weighted by a number that stands wherever a test puts it."""

    kept = 0.5

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.weight = 0.5
        self.words = {"weight": [0.5]}
        self.inner = Inner(0.5)

    def forward(self, x, *, weight=None):
        pyro.module("local", self)
        weight = self.weight if weight is None else weight
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


@dataclasses.dataclass
class Inner:
    weight: float
