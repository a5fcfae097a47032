"""A training that is broken off leaves an optimizer that can be used again."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv

SIZE = 8


class Bits(torch.nn.Module):
    """A likelihood of bits that has a gradient of NaN while `broken` is set."""

    def __init__(self):
        super().__init__()
        self.net, self.broken = torch.nn.Linear(2, SIZE), False

    def forward(self, z, x=None):
        logits = self.net(z)
        if self.broken:
            logits = logits + (0 * logits).sqrt()  # 0, with an infinite slope times 0
        return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class Break(pv.Callback):
    """Break the gradient of one step."""

    def __init__(self, step, error=None):
        self.step, self.error = step, error

    def stepped(self, training):
        training.target.likelihood.broken = training.step == self.step - 1 and not self.error
        if self.error and training.step == self.step:
            raise self.error


def vae():
    torch.manual_seed(0)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 4))
    return pv.VAE(pv.priors.StandardNormal(2), Bits(), guide)


def trained(target, optim, epochs, *callbacks):
    x = torch.rand(60, SIZE, generator=torch.Generator().manual_seed(1)).round()
    step = pv.Step(optim=optim, compile=False)
    return pv.fit(target, x, epochs=epochs, batch_size=20, step=step, callbacks=list(callbacks))


KINDS = {
    "Pyro's Adam": lambda own: pyro.optim.Adam({"lr": 1e-3}),
    "Pyro's ClippedAdam": lambda own: pyro.optim.ClippedAdam({"lr": 1e-3, "lrd": 0.99}),
    "Adam": lambda own: pv.Optim(torch.optim.Adam, lr=1e-3),
    "Adagrad": lambda own: pv.Optim(torch.optim.Adagrad, lr=1e-2),
    "momentum": lambda own: pv.Optim(torch.optim.SGD, lr=1e-4, momentum=0.9),
    "Muon": lambda own: pv.Optim.muon(50),
    "torch's own": lambda own: torch.optim.Adam(own.parameters(), lr=1e-3),
}


@pytest.mark.parametrize("step", [2, 5], ids=["in the first epoch", "in the second"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_gradient_of_nan_is_what_follows_the_last_good_epoch(kind, step):
    """The epochs before, and a training anew with the same optimizer, are the reference."""
    whole, good = vae(), (step - 1) // 3
    optim = KINDS[kind](whole)
    if good:
        trained(whole, optim, good)
    broken = vae()
    other = KINDS[kind](broken)
    with pytest.raises(pv.NonFiniteLoss):
        trained(broken, other, 3, Break(step))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(broken.state_dict()[name], value, rtol=0, atol=0)
    for target, own in ((whole, optim), (broken, other)):
        target._pyrovae_steps = pv.randomness.Steps(7)  # the same noise
        trained(target, own, 2)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(broken.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_an_interrupt_leaves_the_moments_of_the_last_whole_epoch():
    whole, broken = vae(), vae()
    optims = [pv.Optim(torch.optim.Adam, lr=1e-3) for _ in range(2)]
    trained(whole, optims[0], 1)
    history = trained(broken, optims[1], 3, Break(5, KeyboardInterrupt()))
    assert history.ended == "interrupted"
    states = [optim.get_state()["parameters"] for optim in optims]
    for name, entry in states[0].items():
        for key, value in entry["state"].items():
            torch.testing.assert_close(states[1][name]["state"][key], value, rtol=0, atol=0)


def test_no_state_of_parameters_of_nan_is_written(tmp_path):
    """A limit ends the training right after the step that leaves them."""
    target, keep = vae(), pv.Checkpoint(tmp_path)
    with pytest.raises(pv.NonFiniteLoss):
        trained(target, None, 3, Break(5), pv.Limit(steps=5), keep)
    history = pv.fit(
        (again := vae()), torch.rand(60, SIZE, generator=torch.Generator().manual_seed(1)).round(),
        epochs=2, batch_size=20, step=pv.Step(compile=False), resume=tmp_path,
        callbacks=[pv.Limit(steps=9), pv.Checkpoint(tmp_path)],
    )  # fmt: skip
    assert len(history.epochs) == 2
    assert all(parameter.isfinite().all() for parameter in again.parameters())
