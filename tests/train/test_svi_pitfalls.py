"""Programs that a recorded step could get wrong: each trains as with Pyro, or stays eager."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import adam, state, vae
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.train.svi import SVI

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


class Weighted(nn.Module):
    """An observation around z plus a function of a weight."""

    def __init__(self, reduce, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape))
        self.reduce = reduce

    def forward(self, z, x=None):
        mean = z + self.reduce(self.weight)
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def weighted(reduce, *shape):
    torch.manual_seed(0)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(2, 4))
    return pv.VAE(pv.priors.StandardNormal(2), Weighted(reduce, *shape), guide)


def trained(kind, made, optim, x, **options):
    svi = kind(made.model, made.guide, optim, Trace_ELBO(), **options)
    for i in range(4):
        torch.manual_seed(100 + i)
        svi.step(x)


REDUCTIONS = {
    "a sum, whose gradient is expanded": (lambda w: w.sum(), (3,)),
    "a transpose": (lambda w: (w.t() ** 2).sum(1)[:2], (3, 4)),
    "a slice": (lambda w: w[:, 0], (2, 5)),
}


@pytest.mark.parametrize(("reduce", "shape"), REDUCTIONS.values(), ids=REDUCTIONS.keys())
@pytest.mark.parametrize("make", [pyro.optim.Adam, pyro.optim.SGD, pyro.optim.Adagrad])
def test_gradients_are_laid_out_as_their_parameters(reduce, shape, make):
    x, found = torch.randn(5, 2), []
    for kind in (pyro.infer.SVI, SVI):
        made = weighted(reduce, *shape)
        trained(kind, made, make({"lr": 0.05}), x)
        found.append(state(made))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_parameters_that_share_a_gradient_are_clipped_once():
    x, found = torch.randn(5, 2), []
    for compiled in (False, True):
        made = weighted(lambda w: w, 2)
        other = made.likelihood.other = nn.Parameter(torch.ones(2))
        made.likelihood.reduce = lambda w, other=other: w + other
        descent = torch.optim.SGD(made.parameters(), lr=0.1)
        trained(SVI, made, descent, x, compile=compiled, clip_norm=0.5)
        found.append(state(made))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def model_of_two(x, y):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + y, 1.0).to_event(1), obs=x)


def guide_of_two(x, y):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))


def loss_at(svi, *arguments):
    torch.manual_seed(5)
    return svi.step(*arguments)


def still(kind):
    return kind(model_of_two, guide_of_two, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())


def test_arguments_that_are_one_tensor_once_need_not_be_again():
    x, y = torch.randn(4, 2), 3 * torch.ones(4, 2)
    ours, theirs = still(SVI), still(pyro.infer.SVI)
    for arguments in ((x, x), (x, y), (y.t().contiguous().t(), x)):
        assert loss_at(ours, *arguments) == pytest.approx(loss_at(theirs, *arguments), rel=1e-5)


def test_an_argument_that_asks_for_its_gradient_gets_it():
    x, y = torch.randn(4, 2), torch.ones(4, 2, requires_grad=True)
    with pytest.warns(UserWarning, match="arguments require gradients"):
        loss_at(still(SVI), x, y)
    assert y.grad is not None


def test_handlers_around_a_step_are_seen():
    x = torch.randn(4, 2)
    svi = still(SVI)
    plain = loss_at(svi, x, x)
    with pyro.poutine.scale(scale=0.1):
        assert loss_at(svi, x, x) == pytest.approx(0.1 * plain, rel=1e-5)
    assert loss_at(svi, x, x) == plain
    assert svi.compiled


def test_a_parameter_of_the_store_that_is_switched_off_stays():
    svi = SVI(model_of_two, guide_of_two, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())
    x = torch.randn(4, 2)
    svi.step(x, x + 1)
    moved = pyro.param("loc").detach().clone()
    pyro.get_param_store()._params["loc"].requires_grad_(requires_grad=False)
    for _ in range(4):
        svi.step(x, x + 1)
    assert torch.equal(pyro.param("loc"), moved)


DRAWS = {
    "numpy": lambda: torch.from_numpy(np.random.permutation(4)).float().unsqueeze(-1),
    "python": lambda: torch.full((4, 1), random.random()),
    "a float": lambda: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_draws_of_other_generators_are_not_frozen(draw):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + draw(), 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x: guide_of_two(x, x), adam(), Trace_ELBO())
    with pytest.warns(UserWarning, match="change Python's or numpy's random generator"):
        [svi.step(torch.randn(4, 2)) for _ in range(4)]
    assert not svi.compiled


class Drifting(nn.Module):
    """A guide that rebinds a buffer as it runs."""

    def __init__(self):
        super().__init__()
        self.net = pv.nets.MLP(2, 4)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        loc, raw = self.net(x - self.mean).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, pv.nets.positive(raw)).to_event(1))


def test_a_module_that_rebinds_its_buffer_stays_eager_and_whole():
    likelihood = pv.likelihoods.Normal(pv.nets.MLP(2, 2))
    made = pv.VAE(pv.priors.StandardNormal(2), likelihood, Drifting())
    svi = SVI(made.model, made.guide, adam(), Trace_ELBO())
    x = torch.ones(4, 2)
    with pytest.warns(UserWarning, match="change .*mean as they run"):
        [svi.step(x) for _ in range(4)]
    assert type(made.posterior.mean) is torch.Tensor
    # Four steps, and no more.
    torch.testing.assert_close(made.posterior.mean, torch.full((2,), 1 - 0.9**4))


def test_true_and_one_are_two_keys():
    seen = []

    def model(x, flag):
        seen.append(flag)
        model_of_two(x, x)

    svi = SVI(model, lambda x, flag: guide_of_two(x, x), adam(), Trace_ELBO())
    for flag in (True, 1):
        svi.step(torch.randn(4, 2), flag)
    assert {type(flag) for flag in seen} == {bool, int}


def test_programs_of_the_users_own_are_compiled_only_when_asked():
    known, own = vae(), vae(prior=lambda: pv.priors.StandardNormal(3)())
    assert pv.weights.target.safe_to_compile(known)
    assert not pv.weights.target.safe_to_compile(own)
    assert not pv.weights.target.safe_to_compile((known.model, known.guide))
