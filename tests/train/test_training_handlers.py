"""`fit` under handlers and schedules: what it trains to, and what the history shows."""

import contextlib
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae.objectives.handlers import capacity, free_bits, kl_weight
from pyrovae.train.fit import Step

STRENGTHS = torch.tensor([0.3, 3.0], dtype=torch.float64)
"""How strongly each latent acts on x: the KL of the posterior is about 0.04 and 1.15 nats."""


class Line(nn.Module):
    """The posterior N(a x, s^2) of each dimension, which holds the exact one."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((2,), -0.3, dtype=torch.float64))

    def forward(self, x):
        pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()).to_event(1))


def two_dimensions():
    """Return a VAE of two dimensions that have nothing to do with each other, and its data."""

    def prior():
        zero = torch.zeros(2, dtype=torch.float64)
        return pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(STRENGTHS * z, 1.0).to_event(1), obs=x)

    x = STRENGTHS * random(1, 200, 2) + random(2, 200, 2)
    return pv.VAE(prior, likelihood, Line()), x


def kl_of(slope, scale, x):
    """Return the mean KL of each dimension from its standard normal prior."""
    return 0.5 * (scale**2 + slope**2 * x.square().mean(0) - 1) - scale.log()


def kl_at_weight(beta, x):
    """Return the KL at the least distortion + beta KL: a = w / (beta + w^2), s^2 = beta a / w."""
    slope = STRENGTHS / (beta + STRENGTHS**2)
    return kl_of(slope, (beta * slope / STRENGTHS).sqrt(), x)


def trained_kl(vae, x, step):
    """Train by 500 full batches to a last rate of 5e-4."""
    gamma = 0.01 ** (1 / 500)
    optim = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": gamma}
    )
    step = Step(optim=optim, **step)
    history = pv.fit(vae, x, epochs=500, batch_size=len(x), step=step, callbacks=[])
    guide = vae.posterior
    return kl_of(guide.slope.detach(), guide.log_scale.detach().exp(), x), history


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_without_handlers_each_dimension_has_the_kl_of_its_posterior(beta):
    vae, x = two_dimensions()
    found, _ = trained_kl(vae, x, {"kl_weight": beta})
    torch.testing.assert_close(found, kl_at_weight(beta, x), rtol=0.02, atol=0.005)


def test_free_bits_fill_what_is_free_and_leave_the_rest():
    """Up to lambda the KL costs nothing and lowers the distortion, so the weak dimension takes it.

    The strong one has more and keeps that of its posterior. At the kink each step goes the other
    way: the KL stays within a few of Adam's last steps, 5e-4 each, of lambda.
    """
    vae, x = two_dimensions()
    found, history = trained_kl(vae, x, {"handlers": [free_bits(0.3)]})
    wanted = kl_at_weight(1.0, x)
    assert wanted[0] < 0.1 < 0.3 < 1.0 < wanted[1]
    assert found[0].item() == pytest.approx(0.3, abs=0.01)
    assert found[1].item() == pytest.approx(wanted[1].item(), rel=0.02)
    last = history.epochs[-1]
    # One draw of each datum: its KL has the error of the mean of 200 terms, about 0.1 each.
    assert last.rate == pytest.approx(found.sum().item(), abs=0.2)


def test_a_capacity_is_reached_from_below():
    """Strongly held, the KL is c: the weight that leads there is found by bisection."""
    vae, x = two_dimensions()
    found, _ = trained_kl(vae, x, {"handlers": [capacity(2.0, strength=1.0)]})
    low, high = 1e-6, 10.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kl_at_weight(middle, x).sum() > 2.0 else (low, middle)
    assert found.sum().item() == pytest.approx(2.0, abs=0.02)
    torch.testing.assert_close(found, kl_at_weight(low, x), rtol=0, atol=0.1)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_loss_shows_the_handler_and_the_elbo_does_not(beta):
    still = pyro.optim.Adam({"lr": 0.0})
    handlers = {
        (): lambda kl: 0.0,
        (free_bits(0.5),): lambda kl: (0.5 - kl).relu().sum().item(),
        (capacity(3.0, strength=2.0),): lambda kl: (2.0 * (3.0 - kl.sum()) - kl.sum()).item(),
    }
    epochs = {}
    for chosen in handlers:
        vae, x = two_dimensions()
        step = Step(optim=still, handlers=chosen, kl_weight=beta)
        options = {"epochs": 1, "batch_size": len(x), "step": step, "callbacks": []}
        epochs[chosen] = pv.fit(vae, x, **options).epochs[0]
    kl = kl_of(vae.posterior.slope.detach(), vae.posterior.log_scale.detach().exp(), x)
    for chosen, added in handlers.items():
        assert epochs[chosen].elbo == epochs[()].elbo
        assert epochs[chosen].rate == epochs[()].rate
        more = epochs[chosen].loss - epochs[()].loss
        assert more == pytest.approx(beta * float(added(kl)), abs=1e-9)


class Raise(pv.Callback):
    """Raise a capacity as the training goes on."""

    def __init__(self, held):
        self.held = held

    def stepped(self, training):
        self.held.c = pv.schedules.linear(0, 3, 4)(training.step / training.batches)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", ["free_bits", "capacity"])
def test_a_recorded_training_with_handlers_is_an_unrecorded_one(kind):
    losses = {}
    for compiled in (False, True):
        vae, x = two_dimensions()
        held = capacity(0.0, strength=5.0)
        handlers, callbacks = (
            ([held], [Raise(held)]) if kind == "capacity" else ([free_bits(0.4)], [])
        )
        weight = pv.schedules.cyclical(0.5, 1, 2)
        step = Step(handlers=handlers, kl_weight=weight, compile=compiled)
        history = pv.fit(vae, x, epochs=5, batch_size=100, step=step, callbacks=callbacks)
        losses[compiled] = history.column("loss")
        assert history.column("kl_weight") == [0.75, 1.0, 0.75, 1.0, 0.75]
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


def test_what_a_handler_refuses_is_met_before_the_first_step():
    class Fails(pv.Callback):
        def started(self, training):
            raise AssertionError

    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8, 4)),
        guide=pv.guides.FullRankNormal(pv.nets.MLP(4, 8, pv.guides.FullRankNormal.width(2))),
    )
    step = Step(handlers=[free_bits(0.1)])
    with pytest.raises(ValueError, match="site 'z' is a MultivariateNormal"):
        pv.fit(vae, torch.ones(9, 4), epochs=1, step=step, callbacks=[Fails()])


@pytest.mark.parametrize("handlers", [free_bits(0.1), [0.1], ["free_bits"], "free_bits"])
def test_handlers_are_a_list_of_handlers(handlers):
    vae, x = two_dimensions()
    with pytest.raises(ValueError, match=r"handlers are a list .*such as \[free_bits\(0.1\)\]"):
        pv.fit(vae, x, epochs=1, step=Step(handlers=handlers), callbacks=[])


class Tempered(poutine.messenger.Messenger):
    """The likelihood to a power."""

    def __init__(self, power):
        super().__init__()
        self.power = power

    def _pyro_sample(self, msg):
        if msg["is_observed"]:
            msg["scale"] = self.power * msg["scale"]


class TemperedModel:
    """The same as a handler of the pair, which leaves the guide alone."""

    def wrap(self, model, guide):
        return Tempered(0.5)(model), guide


@contextlib.contextmanager
def scaled():
    with poutine.scale(scale=0.5):
        yield


SCALED = {
    "an effect handler of Pyro": lambda: poutine.scale(scale=0.5),
    "a partial of one": lambda: functools.partial(poutine.scale, scale=0.5),
    "a context manager": scaled,
}
HALVED = {
    **SCALED,
    "one of the user's": lambda: Tempered(0.5),
    "a handler of the pair": TemperedModel,
}


def losses_of(handlers, **options):
    vae, x = two_dimensions()
    step = Step(handlers=handlers, **options)
    return pv.fit(vae, x, epochs=3, batch_size=100, step=step, callbacks=[])


@pytest.mark.parametrize("name", HALVED)
def test_a_handler_may_be_of_ones_own(name):
    """The loss is that of the handled programs; the ELBO, rate and distortion are the target's."""
    still = {"optim": pyro.optim.Adam({"lr": 0.0})}
    first, halved = (losses_of(h, **still).epochs[0] for h in ([], [HALVED[name]()]))
    for quantity in ("elbo", "rate", "distortion"):
        assert getattr(halved, quantity) == getattr(first, quantity)
    _, x = two_dimensions()
    kl = kl_of(torch.full((2,), 0.5), torch.tensor(-0.3).double().exp(), x).sum().item()
    left = 0.0 if name in SCALED else 0.5 * kl  # what tempering leaves of the KL
    assert halved.loss == pytest.approx(0.5 * first.loss + left, rel=1e-6)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", HALVED)
def test_a_compiled_training_with_a_handler_of_ones_own_is_an_uncompiled_one(name):
    eager, compiled = (
        losses_of([free_bits(0.1), HALVED[name]()], kl_weight=0.5, compile=compile)
        for compile in (False, True)
    )
    assert compiled.column("loss") == pytest.approx(eager.column("loss"), rel=1e-6)


@pytest.mark.parametrize("handlers", [[free_bits], [Tempered]])
def test_a_class_is_no_handler(handlers):
    with pytest.raises(ValueError, match=r"handlers are a list .*such as"):
        Step(handlers=handlers)


def test_a_kl_weight_is_given_once():
    for other in ({}, {"kl_weight": 0.5}):
        with pytest.raises(ValueError, match=r"given once, as Step\(kl_weight=0.5\)"):
            Step(handlers=[kl_weight(0.5)], **other)


def test_trainings_with_handlers_of_ones_own_are_compiled_when_asked_for():
    assert Step(handlers=[free_bits(0.1)]).has_library_handlers()
    assert not Step(handlers=[poutine.scale(scale=0.5)]).has_library_handlers()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compile", [False, True])
def test_the_gradient_is_clipped(compile):
    """A step of gradient descent at rate 1 is as long as the clipped gradient."""
    vae, x = two_dimensions()
    values = [torch.cat([p.detach().clone() for p in vae.parameters()])]

    class Remember(pv.Callback):
        def stepped(self, training):
            values.append(torch.cat([p.detach().clone() for p in vae.parameters()]))

    step = Step(pyro.optim.SGD({"lr": 1.0}), clip_norm=0.01, compile=compile)
    pv.fit(vae, x, epochs=5, batch_size=len(x), step=step, callbacks=[Remember()])
    lengths = [(b - a).norm().item() for a, b in zip(values[:-1], values[1:], strict=True)]
    assert lengths == pytest.approx([0.01] * 5, rel=1e-4)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_a_norm_to_clip_to_is_positive(clip_norm):
    vae, x = two_dimensions()
    with pytest.raises(ValueError, match="clip_norm is a norm above 0, or None; got"):
        pv.fit(vae, x, epochs=1, step=Step(clip_norm=clip_norm), callbacks=[])
