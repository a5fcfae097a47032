"""Pyro programs of many kinds, each with an objective and arguments, for the compiled step."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineAutoregressive
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import AutoRegressiveNN, PyroModule, PyroSample
from torch import nn

import pyrovae as pv

SIZE, LATENTS, ROWS = 6, 3, 7


def binary():
    return torch.bernoulli(torch.full((ROWS, SIZE), 0.4))


def vae(**parts):
    return pv.VAE(
        **{
            "prior": pv.priors.StandardNormal(LATENTS),
            "likelihood": pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, 5, SIZE)),
            "guide": pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 5, 2 * LATENTS)),
            **parts,
        }
    )


class FlowGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(SIZE, 2 * LATENTS)
        self.flow = AffineAutoregressive(AutoRegressiveNN(LATENTS, [8]))

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        base = dist.Normal(loc, pv.nets.positive(raw)).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


def mean_field(loss):
    made = vae()
    return made.model, made.guide, loss, (binary(),)


def flow():
    made = vae(guide=FlowGuide())
    return made.model, made.guide, Trace_ELBO(), (binary(),)


def enumerated():
    def model(x):
        weights = pyro.param(
            "weights", torch.tensor([0.3, 0.7]), constraint=dist.constraints.simplex
        )
        locs = pyro.param("locs", torch.tensor([[-1.0], [1.5]]))
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[c], 1.0).to_event(1), obs=x)

    return model, lambda x: None, TraceEnum_ELBO(max_plate_nesting=1), (torch.randn(ROWS, 1),)


def enumerated_in_the_guide():
    def model(x):
        locs = pyro.param("locs", torch.tensor([-1.0, 1.5]))
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])))
            pyro.sample("x", dist.Normal(locs[c], 1.0), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.zeros(2))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    return model, guide, TraceEnum_ELBO(max_plate_nesting=1), (torch.randn(ROWS),)


def a_class_that_cannot_be():
    """Enumerate three classes of which the guide gives one no mass: its cost is infinite."""

    def model(x):
        locs = pyro.param("locs", torch.tensor([-1.0, 1.5, 0.0]))
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.4, 0.2])))
            pyro.sample("x", dist.Normal(locs[c], 1.0), obs=x)

    def guide(x):
        free = pyro.param("free", torch.zeros(2))
        logits = torch.cat([free, torch.tensor([-torch.inf])])
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    return model, guide, TraceEnum_ELBO(max_plate_nesting=1), (torch.randn(ROWS),)


def nested_plates():
    def model(x):
        groups, rows = pyro.plate("groups", 3, dim=-2), pyro.plate("rows", ROWS, dim=-1)
        with groups:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with rows:
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        means = pyro.param("means", torch.zeros(3, 1))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.interval(0, 2))
        with pyro.plate("groups", 3, dim=-2):
            pyro.sample("loc", dist.Normal(means, scale))

    return model, guide, Trace_ELBO(), (torch.randn(3, ROWS),)


def score_function():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * c - 1, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Bernoulli(logits=slope * x))

    return model, guide


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def autoguide():
    model = Regression()
    x = torch.randn(20, 2)
    return model, AutoNormal(model), Trace_ELBO(), (x, x.sum(-1))


def subsampled():
    data = torch.randn(50)

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 50, subsample_size=5) as rows:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=data[rows])

    def guide():
        loc = pyro.param("loc", torch.tensor(0.1))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    return model, guide, TraceMeanField_ELBO(), ()


def scaled_and_masked():
    made = vae()
    mask = torch.arange(ROWS) > 2
    model = poutine.mask(poutine.scale(made.model, scale=0.3), mask=mask)
    return model, poutine.mask(made.guide, mask=mask), TraceMeanField_ELBO(), (binary(),)


PROGRAMS = {
    "mean field, Trace_ELBO": lambda: mean_field(Trace_ELBO()),
    "mean field, TraceMeanField_ELBO": lambda: mean_field(TraceMeanField_ELBO()),
    "mean field, TraceGraph_ELBO": lambda: mean_field(TraceGraph_ELBO()),
    "particles in a plate": lambda: mean_field(
        Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    ),
    "particles in a loop": lambda: mean_field(TraceMeanField_ELBO(num_particles=3)),
    "flow guide": flow,
    "enumerated mixture": enumerated,
    "enumerated in the guide": enumerated_in_the_guide,
    "a class that cannot be": a_class_that_cannot_be,
    "nested plates": nested_plates,
    "score function": lambda: (*score_function(), Trace_ELBO(), (torch.randn(ROWS),)),
    "autoguide regression": autoguide,
    "subsampled plate": subsampled,
    "scaled and masked sites": scaled_and_masked,
}


def adam():
    return pyro.optim.Adam({"lr": 0.01})


def train(kind, program, steps=10):
    """Build a program from one seed, warm it up, and take steps from another."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, loss, arguments = program()
    svi = kind(model, guide, adam(), loss)
    torch.manual_seed(1)
    svi.loss(svi.model, svi.guide, *arguments)
    torch.manual_seed(2)
    losses = [svi.step(*arguments) for _ in range(steps)]
    with poutine.trace(param_only=True) as capture:
        svi.loss(svi.model, svi.guide, *arguments)
    values = [site["value"].detach().clone() for site in capture.trace.nodes.values()]
    return svi, losses, values


def graph_of(svi, *arguments, **named):
    """Take steps until one is recorded, and return the graph."""
    for _ in range(6):
        svi.step(*arguments, **named)
        if svi._graphs:
            return svi._graphs[0]
    raise AssertionError("no step was recorded")


def state(made):
    return torch.cat([tensor.double().flatten() for tensor in made.state_dict().values()])
