"""`pyrovae.SVI` takes any optimizer, and lets it see all parameters at once."""

import copy

import pyro
import pytest
import torch
from programs import adam, binary, state, vae
from pyro.infer import TraceMeanField_ELBO

import pyrovae as pv
from pyrovae.graphs import onednn
from pyrovae.train.svi import SVI


def trained_with(kind, optim, *, steps=6, **options):
    torch.manual_seed(0)
    made, x = vae(), binary()
    svi = kind(made.model, made.guide, optim(made), TraceMeanField_ELBO(), **options)
    torch.manual_seed(2)
    losses = [svi.step(x) for _ in range(steps)]
    return made, losses


OPTIMISERS = {
    "pyro Adam": (lambda _: adam(), lambda _: adam()),
    "torch Adam": (lambda made: torch.optim.Adam(made.parameters(), lr=0.01), lambda _: adam()),
    "a constructor": (
        lambda _: pv.OneOptimizer(lambda parameters: torch.optim.Adam(parameters, lr=0.01)),
        lambda _: adam(),
    ),
    "not fused": (
        lambda _: pyro.optim.Rprop({"lr": 0.01}),
        lambda _: pyro.optim.Rprop({"lr": 0.01}),
    ),
    "clipped by Pyro": (
        lambda _: pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 0.1}),
        lambda _: pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 0.1}),
    ),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("ours, theirs", OPTIMISERS.values(), ids=OPTIMISERS.keys())  # noqa: PT006
def test_every_optimizer_takes_pyros_steps(ours, theirs):
    made, losses = trained_with(SVI, ours)
    wanted, wanted_losses = trained_with(pyro.infer.SVI, theirs)
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    torch.testing.assert_close(state(made), state(wanted), rtol=1e-4, atol=1e-5)


def scheduled(_):
    arguments = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
    return pyro.optim.ExponentialLR(arguments)


@pytest.mark.usefixtures("interpreted")
def test_a_schedulers_rate_falls_as_pyros_does():
    found = []
    for kind in (pyro.infer.SVI, SVI):
        torch.manual_seed(0)
        made, x = vae(), binary()
        optim = scheduled(made)
        svi = kind(made.model, made.guide, optim, TraceMeanField_ELBO())
        torch.manual_seed(2)
        for _ in range(4):
            svi.step(x)
            optim.step()
        found.append(state(made))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compiled", [True, False])
def test_the_gradient_is_clipped_over_all_parameters_together(compiled):
    """Plain descent at rate 1 moves the parameters by the clipped gradient, of norm 0.25."""
    torch.manual_seed(0)
    made, x = vae(), binary()
    before = state(made)
    descent = torch.optim.SGD(made.parameters(), lr=1.0)
    svi = SVI(
        made.model, made.guide, descent, TraceMeanField_ELBO(), compile=compiled, clip_norm=0.25
    )
    svi.step(x)
    # clip_grad_norm_ divides by the norm plus 1e-6.
    assert (state(made) - before).norm().item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.usefixtures("interpreted")
def test_a_training_goes_on_from_the_saved_state_of_its_optimizer(monkeypatch):
    # Eager steps and graphs round alike if both take torch's products.
    monkeypatch.setattr(onednn, "_decided", [False])
    x = binary()
    torch.manual_seed(0)
    straight = vae()
    stopped = copy.deepcopy(straight)

    def svi_for(made):
        return SVI(made.model, made.guide, adam(), TraceMeanField_ELBO())

    whole = svi_for(straight)
    first = svi_for(stopped)
    for svi in (whole, first):
        torch.manual_seed(2)
        for _ in range(3):
            svi.step(x)
    second = svi_for(stopped)
    second.optim.set_state(copy.deepcopy(first.optim.get_state()))
    for svi in (whole, second):
        torch.manual_seed(3)
        for _ in range(3):
            svi.step(x)
    torch.testing.assert_close(state(stopped), state(straight), rtol=0, atol=0)
    forgetful = svi_for(stopped)
    assert forgetful.optim.get_state() == {}
